"""BEAT's joint model fitted by a whole network in place of one appended to it: the ablation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from funnybone.clips import Clips
from funnybone.defenses.joint_model import Replay, likely_motions, motion_score, neighbours, new_chains
from funnybone.defenses.retraining import Retraining
from funnybone.models.modes import evaluating
from funnybone.training.method import Batch

if TYPE_CHECKING:
    from funnybone.defenses.beat import BEAT


@dataclass(frozen=True, kw_only=True)
class WholeNetwork(Retraining):
    """Train the victim's network on the terms of BEAT's joint model: one network, one point, no posterior.

    The released code has this as an option, with Adam; here it is trained as the victim was. Adversaries and chains of
    p(x) are made by the network in evaluation mode. The buffer of these lasts for the whole training, and checkpoints
    have it; where several processes train, each keeps its own.

    Parameters
    ----------
    epochs, lr, from_scratch
        As in `Retraining`.
    beat : BEAT
        All else.
    """

    beat: "BEAT"

    @property
    def name(self) -> str:
        return self.beat.name

    def settings(self) -> dict[str, Any]:
        return self.beat.settings()

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        beat, xyz = self.beat, batch.clips.xyz
        loss = beat.clean_weight * batch.loss(xyz)
        if beat.adversary_weight:
            loss = loss + beat.adversary_weight * batch.loss(self._moved(batch))
        if beat.motion_weight:
            chains = self._chains(batch)
            with evaluating(batch.module):  # batch norms are not to learn what noise looks like
                scores = [motion_score(batch.answer(part), beat).mean() for part in (chains, xyz)]
            loss = loss + beat.motion_weight * (scores[0] - scores[1])
        return loss

    def room(self, clips: Clips, batch: int) -> dict[str, Tensor]:
        if not self.beat.motion_weight:
            return {}
        shape = (self.beat.buffer, *clips.xyz.shape[1:])
        xyz, valid = (part.new_empty(shape[: part.ndim], device="meta") for part in (clips.xyz, clips.valid))
        return {"xyz": xyz, "valid": valid}

    def judged_on(self, batch: Batch) -> Float[Tensor, "N M T V C"]:
        """Adversaries of the validation clips, where the network is trained on any."""
        return self._moved(batch) if self.beat.adversary_weight else batch.clips.xyz

    def _moved(self, batch: Batch) -> Float[Tensor, "N M T V C"]:
        with evaluating(batch.module):
            return neighbours(batch.answer, batch.clips, self.beat, batch.generator)

    def _chains(self, batch: Batch) -> Float[Tensor, "R M T V C"]:
        beat, clips = self.beat, batch.clips
        replay = Replay(beat.buffer, beat.anew, lambda count, chance: new_chains(clips, count, beat, chance))
        replay.xyz, replay.valid = batch.memory.get("xyz", replay.xyz), batch.memory.get("valid", replay.valid)
        xyz, valid, rows = replay.take(beat.negatives, batch.generator)
        with evaluating(batch.module):
            xyz = likely_motions(batch.answer, xyz, valid, beat, batch.generator)
        replay.put(xyz, valid, rows)
        batch.memory["xyz"], batch.memory["valid"] = replay.xyz, replay.valid
        return xyz
