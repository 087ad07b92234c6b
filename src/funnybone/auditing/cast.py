"""Who plays which part in an audit: victims, surrogates, and the targets that are shown what fooled a surrogate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from funnybone.clips import Clips, repeated
from funnybone.errors import DataError
from funnybone.victims.access import offers
from funnybone.victims.base import Victim
from funnybone.victims.ensemble import Ensemble
from funnybone.victims.hardened import Hardened

# Victims as a caller may name them: by a mapping, or by what they are called themselves.
Named = Mapping[str, Victim] | Sequence[Victim] | Victim


@dataclass(frozen=True, eq=False)
class Cast:
    """Victims and surrogates by name.

    Attributes
    ----------
    victims : dict of str to Victim
        Who is attacked with the suite's entries.
    owned : dict of str to Victim
        The surrogates that were given. One that is a victim too has one name and stands in both.
    surrogates : dict of str to Victim
        Who is attacked for others: ``owned`` and, where there are several, their ensemble.
    """

    victims: dict[str, Victim]
    owned: dict[str, Victim]
    surrogates: dict[str, Victim]

    @classmethod
    def of(cls, victims: Named, surrogates: Named | None, clips: Clips) -> "Cast":
        """Return the cast, when all of it was made for these clips.

        Raises
        ------
        DataError
            For whoever was not, a name that two have, no victims, a surrogate without gradients, or surrogates that no
            ensemble can be made of.
        """
        attacked = _named(victims, "victim")
        if not attacked:
            raise DataError("there are no victims to audit", hint="give at least one")
        for victim in attacked.values():
            victim.check(clips)
        owned = _named(surrogates, "surrogate") if surrogates is not None else {}
        for name, surrogate in owned.items():
            try:
                surrogate.check(clips)
            except DataError as error:
                raise DataError(f"surrogate {name!r}: {error}") from None
            if not offers(surrogate, "gradients"):
                raise DataError(
                    f"surrogate {name!r} offers {surrogate.access}, no gradients",
                    hint="a surrogate is a network of your own, which can be differentiated through",
                )
            same = attacked.get(name, surrogate)
            if same is not surrogate and same.fingerprint != surrogate.fingerprint:
                raise DataError(
                    f"a victim and another surrogate are both named {name!r}", hint="give each its own name"
                )
        attackers = dict(owned)
        if len(owned) > 1:
            together = "+".join(owned)
            if together in {**attacked, **owned}:
                raise DataError(f"{together!r} is what the surrogates' ensemble is called", hint="choose another name")
            attackers[together] = Ensemble(list(owned.values()), name=together)
        return cls(attacked, owned, attackers)

    @property
    def targets(self) -> dict[str, Victim]:
        """Who is shown the surrogates' clips: the victims, and the surrogates that were given."""
        return {**self.victims, **self.owned} if self.owned else {}

    @property
    def everyone(self) -> dict[str, Victim]:
        """Victims and surrogates."""
        return {**self.victims, **self.surrogates}

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of everyone: a hash of all weights takes its time."""
        return {name: victim.fingerprint for name, victim in self.everyone.items()}

    def seen_through(self) -> dict[str, list[str]]:
        """Return, for each surrogate, the targets whose own gradients it gives: itself, the members of an ensemble."""
        prints, seen = self.fingerprints, {}
        known = {id(victim): prints[name] for name, victim in self.everyone.items()}
        for name, surrogate in self.surrogates.items():
            own = {known.get(id(one)) or one.fingerprint for one in (surrogate, *_members(surrogate))}
            seen[name] = [target for target in self.targets if prints[target] in own]
        return seen

    def base_of(self, hardened: Hardened) -> str | None:
        """Return the name of the audited victim that this one was put around, None where that is not audited."""
        own = hardened.base.fingerprint
        return next((name for name in self.victims if self.fingerprints[name] == own), None)


def _members(victim: Victim) -> tuple[Victim, ...]:
    return victim.victims if isinstance(victim, Ensemble) else ()


def _named(given: Named, role: str) -> dict[str, Victim]:
    if isinstance(given, Mapping):
        return dict(given)
    listed = [given] if isinstance(given, Victim) else list(given)
    twice = repeated(victim.name for victim in listed)
    if twice is not None:
        raise DataError(f"two {role}s have the same name, {twice!r}", hint="give a mapping of names to victims")
    return {victim.name: victim for victim in listed}
