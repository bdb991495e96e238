"""face-api's expression net (https://github.com/vladmandic/face-api, MIT): 0.3 M parameters, 112 x 112 faces.

Four dense blocks of depthwise-separable convolutions halve the picture each; the mean over the last block's
7 x 7 places is a face's embedding of 256 numbers, a linear layer on it gives seven expressions.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = (3, 32, 64, 128, 256)
EXPRESSIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
MEAN = (122.782, 117.001, 104.298)


class Conv(nn.Conv2d):
    """A 3 x 3 convolution with TensorFlow's SAME padding: at stride 2 only right and bottom are padded."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int = 1, bias: bool = True) -> None:
        super().__init__(
            inputs, outputs, 3, stride, padding=1 if stride == 1 else 0, groups=groups, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `[B, C, H, W]`."""
        return super().forward(F.pad(x, (0, 1, 0, 1)) if self.stride[0] == 2 else x)


class Separable(nn.Module):
    """A depthwise 3 x 3 convolution without bias, directly followed by a pointwise one."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = Conv(inputs, inputs, stride, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `[B, C, H, W]`."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


class Block(nn.Module):
    """Halves the picture, then adds up three more convolutions, each of the sum so far."""

    def __init__(self, inputs: int, outputs: int, first: bool) -> None:
        super().__init__()
        self.conv0: nn.Module = Conv(inputs, outputs, 2) if first else Separable(inputs, outputs, 2)
        self.conv1 = Separable(outputs, outputs)
        self.conv2 = Separable(outputs, outputs)
        self.conv3 = Separable(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[B, C', H / 2, W / 2]`."""
        a = F.relu(self.conv0(x))
        b = self.conv1(a)
        c = self.conv2(F.relu(a + b))
        d = self.conv3(F.relu(a + b + c))
        return F.relu(a + b + c + d)


class FaceExpressionNet(nn.Module):
    """The whole net; parameter names are those of the published weights."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        for k in range(4):
            self.add_module(f"dense{k}", Block(CHANNELS[k], CHANNELS[k + 1], first=k == 0))
        self.fc = nn.Linear(CHANNELS[-1], len(EXPRESSIONS))
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Encode faces.

        Args:
            faces: RGB `[B, 3, 112, 112]`, values 0 to 255.

        Returns:
            Embeddings `[B, 256]`, and logits `[B, 7]` in the order of `EXPRESSIONS`.
        """
        x = (faces - self.mean) / 255
        for k in range(4):
            x = self.get_submodule(f"dense{k}")(x)
        embedding = x.mean(dim=(2, 3))
        return embedding, self.fc(embedding)
