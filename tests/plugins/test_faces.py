from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Clip
from mer_plugins.contract import Options
from mer_plugins.errors import ClipError
from mer_plugins.media import iter_frames, read_frames
from mer_plugins.video.face_pixels import FacePixels
from mer_plugins.video.faces import FaceCropper, HaarDetector, cut, follow_face

SHAPE = (100, 200, 3)


def boxes(*found: Iterable[tuple[float, float, float]]) -> list[np.ndarray]:
    """Return detections per frame."""
    return [np.array(list(frame), float).reshape(-1, 3) for frame in found]


def test_the_largest_most_central_face_is_followed() -> None:
    """Of two faces the larger one is taken, and kept, even where the other is found alone."""
    large, small = (100, 50, 40), (30, 50, 20)
    got = follow_face(boxes([large, small], [small, large], [small], [large], [small, large]), SHAPE)
    assert all(box is not None and np.allclose(box, large) for box in got)


def test_a_central_face_beats_one_at_the_edge() -> None:
    """Of two faces of one size the one in the middle is taken."""
    got = follow_face(boxes([(15, 50, 30), (100, 50, 30)]), SHAPE)
    assert np.allclose(got[0], (100, 50, 30))


def test_short_gaps_are_bridged_and_long_ones_are_not() -> None:
    """A face missed for a moment is still there; one gone for longer is not made up."""
    face = [(100, 50, 40)]
    short = follow_face(boxes(face, [], [], [(110, 50, 40)]), SHAPE)
    assert all(box is not None for box in short)
    long = follow_face(boxes(face, *[[]] * 8, face), SHAPE)
    assert [box is None for box in long] == [False, *[True] * 8, False]


def test_jitter_is_smoothed() -> None:
    """Boxes that jump about come out steadier than they went in."""
    rng = np.random.default_rng(0)
    found = boxes(*[[(100 + rng.normal(0, 4), 50 + rng.normal(0, 4), 40)] for _ in range(50)])
    steady = np.array(follow_face(found, SHAPE))
    assert steady[2:-2, :2].std(axis=0).max() < 0.6 * np.concatenate(found)[:, :2].std(axis=0).min()


def test_no_face_at_all() -> None:
    """Without any detection there is no box."""
    assert follow_face(boxes([], []), SHAPE) == [None, None]


def test_cut() -> None:
    """A square is cut where it is asked for, black beyond the picture, scaled to size."""
    image = np.arange(100 * 200 * 3, dtype=np.uint32).reshape(SHAPE).astype(np.uint8)
    assert np.array_equal(cut(image, np.array([100.0, 50, 20]), 20), image[40:60, 90:110])
    corner = cut(image, np.array([0.0, 0, 40]), 40)
    assert not corner[:20].any()
    assert np.array_equal(corner[20:, 20:], image[:20, :20])
    assert cut(image, np.array([-500.0, -500, 40]), 10).sum() == 0
    whole = cut(np.full(SHAPE, 200, np.uint8), None, 64)
    assert whole.shape == (64, 64, 3)
    assert (whole[:14] == 0).all()
    assert (whole[17:47] == 200).all()


def test_policies(tmp_path: Path) -> None:
    """Without a face, `skip` refuses with the remedy and `center` takes the middle of the picture."""
    frames = [np.full((60, 80, 3), 90, np.uint8)] * 3
    skip = FaceCropper("detect", "skip", size=16)
    with pytest.raises(ClipError, match="no face found in 3 frames of film; --option faceless=center"):
        skip.crop(lambda: frames, "film")
    assert FaceCropper("detect", "center", size=16).crop(lambda: frames, "x").shape == (3, 16, 16, 3)
    assert FaceCropper("center", "skip", size=16, center=20).crop(lambda: frames, "x").shape == (3, 16, 16, 3)
    assert FaceCropper("none", "skip", size=16).crop(lambda: frames, "x").shape == (3, 16, 16, 3)
    for policy in ("detect", "center", "none"):
        with pytest.raises(ClipError, match="no frames"):
            FaceCropper(policy, "center", size=16).crop(list, "x")


def test_only_what_matters_is_in_the_fingerprint() -> None:
    """The detector's settings do not count where nothing is detected."""
    center, detect = (FaceCropper(face, "skip", size=16).made_by() for face in ("center", "detect"))
    assert "detector" not in center
    assert detect["detector"]["name"] == "haarcascade_frontalface_default"


class TestRealFaces:
    """Faces as found in the world."""

    @pytest.mark.parametrize(
        ("name", "low", "high"),
        [
            ("obama_speech.mp4", 0.15, 0.4),
            ("single_face.mp4", 0.4, 0.7),
            ("WolfgangLanger_Pexels.mp4", 0.5, 0.9),
        ],
    )
    def test_detected(self, shared: Path, name: str, low: float, high: float) -> None:
        """One face is found in at least nine of ten frames, of a plausible size."""
        frames = read_frames(shared / "data" / "media" / name, fps=2)
        detector = HaarDetector()
        followed = follow_face([detector.detect(frame) for frame in frames], frames[0].shape)
        sides = [box[2] / frames.shape[1] for box in followed if box is not None]
        assert len(sides) >= 0.9 * len(frames)
        assert low < min(sides)
        assert max(sides) < high

    def test_face_that_leaves(self, shared: Path) -> None:
        """Where the face is in the first half only, only those frames give rows."""
        path = shared / "data" / "media" / "face_noface.mov"
        extractor = FacePixels(Options(extra={"fps": "4"}))
        rows = extractor.prepare(Clip(key="a", video=str(path)))
        frames = sum(1 for _ in iter_frames(path, fps=4))
        assert 0.3 * frames < len(rows) < 0.7 * frames

    def test_composite(self, shared: Path) -> None:
        """A face is found in short clips that have one, and none in a clip that has none."""
        videos = shared / "data" / "composite" / "videos"
        extractor = FacePixels(Options())
        for key in ("cp_0001", "cp_0002", "cp_0003", "cp_0004"):
            assert len(extractor.prepare(Clip(key=key, video=str(videos / f"{key}.mp4")))) >= 8
        with pytest.raises(ClipError, match="no face found in 10 frames"):
            extractor.prepare(Clip(key="a", video=str(videos / "cp_0110.mp4")))
