import numpy as np

from catalogpose.quality.skeleton import LIMBS, make_skeleton
from catalogpose.records import JOINTS


def test_a_whole_pose_has_every_limb() -> None:
    """Eighteen joints make eighteen dots and seventeen lines, each between its own joints."""
    joints = np.stack([np.arange(18) * 2, np.arange(18) * 3, np.ones(18)], axis=1)
    skeleton = make_skeleton(joints.astype(np.float32), 40, 60)
    assert len(skeleton.dots) == len(JOINTS)
    assert len(skeleton.limbs) == len(LIMBS)
    assert skeleton.limbs[0].ends == (2.0, 3.0, 4.0, 6.0)


def test_a_missing_joint_takes_its_limbs_along() -> None:
    """Without the neck five lines go and nothing is drawn at NaN."""
    joints = np.ones((18, 3), dtype=np.float32)
    joints[JOINTS.index("neck")] = (np.nan, np.nan, 0)
    skeleton = make_skeleton(joints, 40, 60)
    assert len(skeleton.dots) == 17
    assert len(skeleton.limbs) == len(LIMBS) - 5
    assert np.isfinite([limb.ends for limb in skeleton.limbs]).all()
