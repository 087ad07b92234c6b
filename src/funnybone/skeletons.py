"""Skeletons: which joints there are, which bone joins them, which are left and right of each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.errors import DataError


@dataclass(frozen=True)
class Skeleton:
    """A tree of joints.

    Parameters
    ----------
    name : str
        What the field calls it.
    joints : tuple of str
        Joint names, in the order of the V axis.
    parents : tuple of int
        For each joint the index of its parent; -1 for the root. One root, no cycles.
    centre : int
        The joint that graph networks measure hop distances from.
    pairs : tuple of (int, int)
        Left and right joints that mirror each other.

    Raises
    ------
    DataError
        When the parents are not one tree over the joints, or an index lies outside of them.

    Examples
    --------
    >>> NTU25.joints[NTU25.root], len(NTU25.bones)
    ('SpineShoulder', 24)
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    centre: int = 0
    pairs: tuple[tuple[int, int], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        count = len(self.joints)
        if count == 0 or len(self.parents) != count:
            raise DataError(f"skeleton {self.name!r}: {count} joints but {len(self.parents)} parents")
        if len(set(self.joints)) != count:
            raise DataError(f"skeleton {self.name!r}: a joint name occurs twice")
        indices = (*self.parents, self.centre, *(joint for pair in self.pairs for joint in pair))
        if min(indices) < -1 or max(indices) >= count or self.centre < 0:
            raise DataError(f"skeleton {self.name!r}: a parent, centre or pair index lies outside 0..{count - 1}")
        if self.parents.count(-1) != 1:
            raise DataError(
                f"skeleton {self.name!r}: {self.parents.count(-1)} joints have parent -1",
                hint="mark exactly one root with -1",
            )
        if len(self.topological_order) != count:
            raise DataError(f"skeleton {self.name!r}: the parents form a cycle")

    @property
    def root(self) -> int:
        """The joint without a parent."""
        return self.parents.index(-1)

    @property
    def topological_order(self) -> tuple[int, ...]:
        """Joints ordered so that each comes after its parent."""
        order = [self.root]
        for joint in order:  # grows while it is walked: breadth first
            order.extend(child for child, parent in enumerate(self.parents) if parent == joint)
        return tuple(order)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """(child, parent) for each joint but the root, in joint order."""
        return tuple((child, parent) for child, parent in enumerate(self.parents) if parent >= 0)

    @property
    def other_side(self) -> tuple[int, ...]:
        """For each joint the one of the other side, itself in the middle."""
        other = dict(self.pairs) | {right: left for left, right in self.pairs}
        return tuple(other.get(joint, joint) for joint in range(len(self.joints)))

    @property
    def mirrored_bones(self) -> tuple[int, ...]:
        """For each bone that of the other side, or itself: by the left and right of the joints at its two ends.

        Examples
        --------
        >>> Skeleton("legs", ("hips", "left", "right", "chest"), (-1, 0, 0, 0), pairs=((1, 2),)).mirrored_bones
        (1, 0, 2)
        """
        other = self.other_side
        place = {bone: index for index, bone in enumerate(self.bones)}
        return tuple(
            place.get((other[child], other[parent]), index) for index, (child, parent) in enumerate(self.bones)
        )

    def index(self, joint: str) -> int:
        """The index of a joint by its name."""
        if joint not in self.joints:
            raise DataError(f"skeleton {self.name!r} has no joint {joint!r}", hint=f"it has {', '.join(self.joints)}")
        return self.joints.index(joint)

    def bone_vectors(self, xyz: Float[Tensor, "*batch V C"]) -> Float[Tensor, "*batch B C"]:
        """Child minus parent for each bone, in the unit of ``xyz``."""
        child, parent = (list(joints) for joints in zip(*self.bones, strict=True))
        return xyz[..., child, :] - xyz[..., parent, :]

    def bone_lengths(self, xyz: Float[Tensor, "*batch V C"]) -> Float[Tensor, "*batch B"]:
        """Length of each bone, in the unit of ``xyz``; its gradient is zero, not NaN, at a bone without length."""
        return torch.linalg.vector_norm(self.bone_vectors(xyz), dim=-1)

    def same_layout(self, other: "Skeleton") -> bool:
        """Whether both list the same joints in the same order on the same tree."""
        return self.joints == other.joints and self.parents == other.parents


def known(joints: Sequence[str], parents: Sequence[int]) -> Skeleton | None:
    """Return the skeleton of this module with these joints and parents, or None."""
    layout = (tuple(joints), tuple(parents))
    return next((skeleton for skeleton in ALL if (skeleton.joints, skeleton.parents) == layout), None)


def from_layout(name: str, joints: Sequence[str], parents: Sequence[int]) -> Skeleton:
    """Return the known skeleton with this layout, or a new one whose left and right are read off the names."""
    found = known(joints, parents)
    if found is not None:
        return found
    names = tuple(str(joint) for joint in joints)
    skeleton = Skeleton(name, names, tuple(int(parent) for parent in parents), pairs=_pairs(names))
    return Skeleton(name, names, skeleton.parents, centre=skeleton.root, pairs=skeleton.pairs)


def _pairs(joints: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Left and right joints by name: a joint whose name, with left turned to right, is another joint's name."""
    turned = (("Left", "Right"), ("left", "right"), ("LEFT", "RIGHT"))
    places = {joint: index for index, joint in enumerate(joints)}
    found = []
    for index, joint in enumerate(joints):
        others = {joint.replace(left, right) for left, right in turned}
        others |= {f"R{joint[1:]}"} if joint[:1] == "L" else set()
        others |= {f"r{joint[1:]}"} if joint[:1] == "l" else set()
        others |= {f"{joint[:-1]}R"} if joint[-1:] == "L" else set()
        match = next((places[other] for other in sorted(others) if other != joint and other in places), None)
        if match is not None:
            found.append((index, match))
    return tuple(found)


def _skeleton(name: str, joints: str, parents: str, centre: int) -> Skeleton:
    names = tuple(joints.split())
    return Skeleton(name, names, tuple(map(int, parents.split(","))), centre, _pairs(names))


# The tree of the graph networks: rooted between the shoulders, hand tips hang on the thumbs.
NTU25 = _skeleton(
    "NTU25",
    "SpineBase SpineMid Neck Head ShoulderL ElbowL WristL HandL ShoulderR ElbowR WristR HandR HipL KneeL AnkleL FootL "
    "HipR KneeR AnkleR FootR SpineShoulder HandTipL ThumbL HandTipR ThumbR",
    "1,20,20,2,20,4,5,6,20,8,9,10,0,12,13,14,0,16,17,18,-1,22,7,24,11",
    centre=20,
)

# The 31 joints of the database's ASF files; each is the far end of the bone of that name.
HDM05 = _skeleton(
    "HDM05",
    "root lhipjoint lfemur ltibia lfoot ltoes rhipjoint rfemur rtibia rfoot rtoes lowerback upperback thorax lowerneck "
    "upperneck head lclavicle lhumerus lradius lwrist lhand lfingers lthumb rclavicle rhumerus rradius rwrist rhand "
    "rfingers rthumb",
    "-1,0,1,2,3,4,0,6,7,8,9,0,11,12,13,14,15,13,17,18,19,20,21,20,13,24,25,26,27,28,27",
    centre=13,
)

# The 25 joints kept by the attack papers; three of its bones have no length.
HDM05_25 = _skeleton(
    "HDM05_25",
    "LHipJoint LeftUpLeg LeftLeg LeftFoot LeftToeBase RHipJoint RightUpLeg RightLeg RightFoot RightToeBase Hips Spine "
    "Spine1 Neck Head LeftArm LeftForeArm LeftHand LeftHandIndex LThumb RightArm RightForeArm RightHand "
    "RightHandIndex RThumb",
    "10,0,1,2,3,10,5,6,7,8,-1,10,11,12,13,13,15,16,17,18,13,20,21,22,23",
    centre=12,
)

MHAD = _skeleton(
    "MHAD",
    "Hips spine spine1 spine2 Neck Head RightShoulder RightArm RightArmRoll RightForeArm RightForeArmRoll RightHand "
    "LeftShoulder LeftArm LeftArmRoll LeftForeArm LeftForeArmRoll LeftHand RightUpLeg RightUpLegRoll RightLeg "
    "RightLegRoll RightFoot RightToeBase LeftUpLeg LeftUpLegRoll LeftLeg LeftLegRoll LeftFoot LeftToeBase",
    "-1,0,1,2,3,4,3,6,7,8,9,10,3,12,13,14,15,16,0,18,19,20,21,22,0,24,25,26,27,28",
    centre=3,
)

# Kinect v1, order of the SDK (Northwestern-UCLA, UTKinect).
KINECT20 = _skeleton(
    "KINECT20",
    "hip_center spine shoulder_center head left_shoulder left_elbow left_wrist left_hand right_shoulder right_elbow "
    "right_wrist right_hand left_hip left_knee left_ankle left_foot right_hip right_knee right_ankle right_foot",
    "-1,0,1,2,2,4,5,6,2,8,9,10,0,12,13,14,0,16,17,18",
    centre=2,
)

# Kinect v1, order of UTD-MHAD.
UTD20 = _skeleton(
    "UTD20",
    "head shoulder_center spine hip_center left_shoulder left_elbow left_wrist left_hand right_shoulder right_elbow "
    "right_wrist right_hand left_hip left_knee left_ankle left_foot right_hip right_knee right_ankle right_foot",
    "1,2,3,-1,1,4,5,6,1,8,9,10,3,12,13,14,3,16,17,18",
    centre=1,
)

OPENPOSE18 = _skeleton(
    "OPENPOSE18",
    "Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist RHip RKnee RAnkle LHip LKnee LAnkle REye LEye REar LEar",
    "1,-1,1,2,3,1,5,6,2,8,9,5,11,12,0,0,14,15",
    centre=1,
)

COCO17 = _skeleton(
    "COCO17",
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
    "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle",
    "-1,0,0,1,2,0,0,5,6,7,8,5,6,11,12,13,14",
    centre=0,
)

ALL = (NTU25, HDM05, HDM05_25, MHAD, KINECT20, UTD20, OPENPOSE18, COCO17)
