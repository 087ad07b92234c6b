"""The report of an audit: one HTML file that opens from disk, without a network."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from funnybone.auditing.schema import AttackResult, AuditResult, TransferResult, VictimResult
from funnybone.report import charts, heat, numbers
from funnybone.report.examples import Example
from funnybone.report.payload import to_script
from funnybone.units import UNITS, Unit


def render(audit: AuditResult, examples: Sequence[Example]) -> str:
    """Return the whole page: styles, scripts, figures and motions inside of it.

    The same arguments give the same text. Nothing that the page names is fetched, and its content security policy lets
    a browser run no script but the two that were put in here, whatever names the classes and clips carry.

    Parameters
    ----------
    audit : AuditResult
        What was measured.
    examples : sequence of Example
        Clips to show moving; without any, the page has no player.

    Examples
    --------
    >>> from funnybone.auditing.schema import DataSummary
    >>> data = DataSummary(name="made up", split=None, n=0, classes=[], frames=0, persons=1, skeleton="NTU25",
    ...                    unit="metre", synthetic=True, sha256="")
    >>> audit = AuditResult(seed=0, suite="quick", data=data, victims=[], warnings=[], environment={})
    >>> page = render(audit, [])
    >>> "Synthetic data" in page, "https://" in page
    (True, False)
    """
    styles = static("report.css") + (static("player.css") if examples else "")
    unit = UNITS[audit.data.unit]
    scripts = {"theme": static("theme.js"), "player": static("player.js") if examples else ""}
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            audit=audit,
            policy=policy(styles, [script for script in scripts.values() if script]),
            styles=Markup(styles),
            scripts={name: Markup(script) for name, script in scripts.items()},
            examples=examples,
            motions=Markup(to_script(examples)),
            attack_count=len(charts.labels(audit.victims)),
            strongest={victim.name: victim.strongest() for victim in audit.victims},
            unit=unit,
            per_second2=unit.per_second2.replace("2", "²"),
            per_second3=unit.per_second2.replace("2", "³"),
            series=charts.labels(audit.victims),
            attack_label=charts.attack_label,
            curves=charts.displacement_curves(audit.victims, audit.data.unit),
            frame=charts,
            table=_table(audit.victims, unit),
            settings=_settings(audit),
            heat=heat,
            on_manifold=any(
                attack.on_manifold_rate is not None for victim in audit.victims for attack in victim.attacks
            ),
            zero_gradients=any(attack.zero_gradients for victim in audit.victims for attack in victim.attacks),
        )
    )


def policy(styles: str, scripts: Sequence[str]) -> str:
    """A content security policy that knows its own scripts by their hash and refuses every other one."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    allowed = " ".join(source(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {source(styles)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _table(victims: Sequence[VictimResult], unit: Unit) -> dict[str, list[str]]:
    """Columns of measurements over all victims, each with its own decimals, in the order of the rows."""
    attacks = [attack for victim in victims for attack in victim.attacks]
    return {
        "position": numbers.column([attack.position_m for attack in attacks], scale=unit.scale),
        "furthest": numbers.column([attack.max_position_m for attack in attacks], scale=unit.scale),
        "acceleration": numbers.column([attack.acceleration for attack in attacks]),
        "jerk": numbers.column([attack.jerk for attack in attacks]),
        "angle": numbers.column([attack.joint_angle_acceleration for attack in attacks]),
        "bones": numbers.column([attack.bone_length_change for attack in attacks], scale=100),
        "npss": numbers.column([attack.npss for attack in attacks]),
        "seconds": numbers.column([attack.seconds for attack in attacks]),
    }


def _settings(audit: AuditResult) -> list[tuple[AttackResult | TransferResult, list[str]]]:
    """Each way of attacking once, with the victims or surrogates that met it."""
    found: dict[str, tuple[AttackResult | TransferResult, list[str]]] = {}
    for victim in audit.victims:
        for attack in victim.attacks:
            same = attack.model_dump_json(include={"name", "access", "goal", "threat", "settings"})
            found.setdefault(same, (attack, []))[1].append(victim.name)
    return [*found.values(), *((attack, attack.surrogates) for attack in audit.transfer)]


@cache
def static(name: str) -> str:
    """Return a style sheet or a script that goes into a page."""
    return files("funnybone.report").joinpath("static", name).read_text(encoding="utf-8")


def _template(name: str) -> str | None:
    path = files("funnybone.report").joinpath("templates", name)
    return path.read_text(encoding="utf-8") if path.is_file() else None


@cache
def environment() -> Environment:
    """Return what templates are read with: everything is escaped, and what they do not know is an error."""
    made = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        name: getattr(numbers, name) for name in ("percent", "interval", "count", "short", "setting")
    }
    made.filters |= filters
    made.globals["dash"] = numbers.DASH
    return made
