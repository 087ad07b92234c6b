"""Black-box attacks on trained victims: how near they come to the clean motion, how natural, after how many queries.

Each cell (data, victim, attack) is written as it ends and never measured again; while it is under way its clips are, a
few minutes' worth at a time, in an order drawn from a seed. So the script can be stopped and started again, and with
`--first N` it leaves every cell at its first N clips. What natural motion is, is learned from the training subjects;
attacks start from test clips of other classes, as the published code does. Weights files are those of
`train_victims.py`.

    python benchmarks/black_box.py --weights FOLDER --data FOLDER [--only CELL ...] [--limit 32] [--first 8]
    python benchmarks/black_box.py --docs
"""

import json
import time
from functools import lru_cache

import matplotlib
import torch
from matplotlib.figure import Figure

import funnybone as fb
from cells import PAGE, SPLITS, Results, arguments_of, clips_of, table, victim_of, write_page
from funnybone.attacks.as_text import attack_from
from funnybone.attacks.decision import MARKS
from funnybone.auditing.plan import choose
from funnybone.auditing.schema import DEVIATIONS
from funnybone.metrics.intervals import wilson

FIGURES = PAGE.parent / "figures"
ON_PAGE = ("<!-- black boxes: made by benchmarks/black_box.py -->\n", "<!-- end of black boxes -->\n")

IN_FULL = ("sgn", "stgcn", "ctrgcn")
OTHERS = ("hrnn", "agcn", "asgcn", "dgnn", "msg3d", "stgcnpp", "skateformer", "frhead")
OF_OTHERS = 16  # clips
AT_ONCE = 600  # seconds: as many clips are attacked together as take about so long
ENOUGH = 8  # clips, for a cell under way to be shown
CURVES = ("position_m", "natural_position_m")
# By labels alone; the second without its projection, at as many steps: 500, which take some 4,000 queries. The others
# have so many.
ATTACKS = {
    "basar": "basar",
    "basar, no projection": "basar project=false",
    "basar, published": "basar tangent=published frequencies=None period=250 weight=1 heaviest=1",
    "hopskipjump, natural": "hopskipjump space=angles frequencies=8 queries=4000",
    "hopskipjump": "hopskipjump queries=4000",
    "hopskipjump, tangent": "hopskipjump jump=tangent queries=4000",
    "boundary": "boundary queries=4000",
    "rays": "rays queries=4000",
}
# By scores, in a ball: what falls there has moved about as far as the ball is wide.
BY_SCORES = {"square": "square queries=4000", "nes": "nes queries=4000", "simba": "simba queries=4000"}
BALLS = {"hdm05_11": 0.1, "utd_mhad": 0.02}  # m, of each coordinate
ON_OTHERS = ("basar", "hopskipjump, natural")


def cells():
    """Every (data, model, attack): the order is that of the work."""
    for attack in (*ATTACKS, *BY_SCORES):
        for data in SPLITS:
            yield from ((data, model, attack) for model in IN_FULL)
    for attack in ON_OTHERS:
        yield from (("utd_mhad", model, attack) for model in OTHERS)


def in_any_order(clips, seed):
    """The clips in an order drawn from a seed, so that those of a cell under way are a sample of all."""
    return clips[torch.randperm(len(clips), generator=torch.Generator().manual_seed(seed))]


def measure(victim, clips, starts, natural, text, begun, keep, threat=None, first=None):
    """Measure a cell's clips, or the ``first`` of them: a few at a time, and none's result depends on those beside it.

    ``begun`` has the clips that are done, and ``keep`` is called when there are more. Return the record of these.
    """
    attack = attack_from(text)
    settings = json.loads(json.dumps(attack.settings()))  # as they are read back
    known = [record["id"] for record in begun.get("clips", ())]
    if begun.get("settings") != settings or known != list(clips.ids[: len(known)]):
        begun.update(settings=settings, seconds=0.0, clips=[])
    size = 1
    wanted = len(clips[:first])
    while (done := len(begun["clips"])) < wanted:
        began, some = time.perf_counter(), clips[done : min(done + size, wanted)]
        chance = torch.Generator().manual_seed(0)
        if threat is None:
            outcome = attack(victim, some, starts=starts, natural=natural, generator=chance)
        else:
            outcome = attack(victim, some, threat=threat, natural=natural, generator=chance)
        begun["clips"] += records(outcome, some, natural)
        took = time.perf_counter() - began
        begun["seconds"] += took
        keep()
        size = max(1, min(2 * size, int(size * AT_ONCE / took)))
    return whole(begun)


def records(outcome, clips, natural):
    """What is kept of each clip."""
    curve, clean = outcome.provenance.get("curve") or steps(outcome), natural.holds(clips)
    columns = {"id": clips.ids, "clean_on_manifold": clean.tolist()}
    columns |= {key: getattr(outcome, key).tolist() for key in ("attacked", "success", "queries")}
    columns |= {key: outcome.distances[key].tolist() for key in (*DEVIATIONS, "on_manifold")}
    columns["curve"] = [{key: curve[key][row] for key in CURVES} for row in range(len(clips))]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def steps(outcome):
    """The curve of an attack that ends where a clip falls: nothing before, its displacement from there on."""
    columns = (outcome.success, outcome.queries, outcome.distances["position_m"], outcome.distances["on_manifold"])
    curve = {key: [] for key in CURVES}
    for fell, queries, far, natural in zip(*(column.tolist() for column in columns), strict=True):
        reached = [far if fell and queries <= mark else None for mark in MARKS]
        curve["position_m"].append(reached)
        curve["natural_position_m"].append(reached if natural == 1 else [None] * len(MARKS))
    return curve


def whole(begun):
    """The record of a cell whose clips are done."""
    clips = begun["clips"]
    attacked, fallen = ([clip for clip in clips if clip[key]] for key in ("attacked", "success"))

    def over(key, summary):
        values = torch.tensor([clip[key] for clip in fallen], dtype=torch.float64)
        values = values[~values.isnan()]
        return float(summary(values)) if len(values) else None

    return {
        "settings": begun["settings"],
        "seed": 0,
        "n": len(clips),
        "attacked": len(attacked),
        "succeeded": len(fallen),
        "ci95": wilson(len(fallen), len(attacked)),
        "queries_median": over("queries", median),
        "queries_most": max((clip["queries"] for clip in attacked), default=0),
        **{name: over(name, torch.mean) for name in DEVIATIONS},
        "position_median_m": over("position_m", median),
        "on_manifold": sum(int(clip["on_manifold"]) for clip in fallen),
        "clean_on_manifold": sum(clip["clean_on_manifold"] for clip in attacked),
        # Over all that were attacked: one that does not fall is infinitely far.
        "curve": {
            "queries": list(MARKS),
            **{key: medians([clip["curve"][key] for clip in attacked]) for key in CURVES},
        },
        "seconds": begun["seconds"],
    }


def median(values):
    return values.quantile(0.5)


def medians(rows):
    """Of each column; None where half of the clips have nothing yet."""
    columns = torch.tensor([[torch.inf if value is None else value for value in row] for row in rows])
    found = columns.median(0).values.tolist() if len(rows) else []
    return [value if value < torch.inf else None for value in found]


def name_of(cell):
    return "-".join(cell).replace(", ", "-").replace(" ", "-")


def row(cell, found):
    """A row of the table."""
    succeeded = found["succeeded"]
    at = dict(zip(found["curve"]["queries"], found["curve"]["position_m"], strict=True)) if succeeded else {}

    def millimetres(value):
        return "-" if value is None else f"{1000 * value:.0f}"

    figures = [
        f"{succeeded} of {found['attacked']}",
        f"{found['queries_median']:.0f}" if succeeded else "-",
        *(millimetres(at.get(queries)) for queries in (500, 1000, 2000)),
        millimetres(found["position_median_m"]),
        *(
            "-" if found[key] is None else f"{scale * found[key]:.3g}"
            for key, scale in (("acceleration", 1), ("joint_angle_acceleration", 1), ("bone_length_change", 100))
        ),
        f"{found['on_manifold']} of {succeeded} (clean {found['clean_on_manifold']} of {found['attacked']})",
    ]
    return [cell[1], called(cell[2], found), *figures]


def draw(data, model, found):
    """Draw median distances after so many queries, of any motion and of natural motion; return what shows it."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for axis, key, title in zip(axes, CURVES, ("any motion", "natural motion"), strict=True):
        for place, (name, one) in enumerate(found.items()):
            last = max(one.get("queries_most") or one["queries_median"] or 0, 1)
            there = [(q, 1000 * d) for q, d in zip(one["curve"]["queries"], one["curve"][key], strict=True) if d]
            # The curve holds what was nearest so far; where an attack has ended, its line ends.
            there = [point for point in there if point[0] < last] + [(last, there[-1][1])] if there else []
            # Ten colours: attacks by scores, the last ones, share theirs with the first, and are dashed.
            look = {"color": f"C{place}", "ls": "--" if name in BY_SCORES else "-", "lw": 1.6, "marker": "."}
            axis.plot(*zip(*there, strict=True) if there else ([], []), label=called(name, one), **look)
        axis.set(xscale="log", yscale="log", xlabel="queries", title=f"{model}, {data}: {title}")
        axis.xaxis.set_major_formatter("{x:,.0f}")
        for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            which("{x:.0f}")
        axis.grid(alpha=0.25, which="both", lw=0.5)
    axes[0].set_ylabel("median displacement, mm")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    FIGURES.mkdir(exist_ok=True)
    file = FIGURES / f"queries.{data}.{model}.svg"
    with matplotlib.rc_context({"svg.hashsalt": file.name}):  # the same figures make the same file
        figure.savefig(file, metadata={"Date": None})
    return f"![Median displacement after so many queries: {model}, {data}](figures/{file.name})"


def measured(result):
    """The record of each cell by name: of those under way too, if some clips are done."""
    begun = {name: whole(one) | {"under_way": True} for name, one in result.get("begun", {}).items()}
    return {name: one for name, one in begun.items() if one["n"] >= ENOUGH} | result["cells"]


def called(attack, found):
    """An attack's name in tables and figures; of a cell under way, with the number of its clips."""
    return f"{attack} (first {found['n']} clips)" if "under_way" in found else attack


def page(result):
    """The tables of the results, and a figure of each victim of several attacks."""
    records = measured(result)
    headers = ["victim", "attack", "fell", "queries", "mm after 500", "after 1,000", "after 2,000", "in the end"]
    headers += ["acc. m/s²", "angles rad/s²", "bones %", "on manifold"]
    parts = []
    for data in SPLITS:
        own = [cell for cell in cells() if cell[0] == data and name_of(cell) in records]
        if own:
            parts.append(
                f"**{data}** ({SPLITS[data]}); displacements are medians: in the end, over the clips that "
                "fell; after so many queries, over all attacked, one that has not fallen being infinitely far:"
            )
            parts.append(table(headers, [row(cell, records[name_of(cell)]) for cell in own]))
        for model in IN_FULL:
            found = {cell[2]: records[name_of(cell)] for cell in own if cell[1] == model}
            found = {attack: one for attack, one in found.items() if one["succeeded"]}
            if len(found) > 1:
                parts.append(draw(data, model, found))
    return parts


@lru_cache(maxsize=8)
def natural_of(folder, data, frames):
    """What natural motion is, by the training subjects."""
    return fb.metrics.learn_natural_motion(clips_of(folder, data, frames, part="training"))


def main():
    parser = arguments_of(__doc__, results="basar.json", example="hdm05_11-sgn-basar", limit=32)
    parser.add_argument("--first", type=int, help="take up a cell's first clips alone, and leave it under way")
    arguments = parser.parse_args()
    results = Results(arguments.json)
    if arguments.docs:
        write_page(ON_PAGE, page(results.all))
        return
    begun = results.all.setdefault("begun", {})
    for cell, name in results.left(cells(), name_of, arguments.only):
        data, model, attack = cell
        victim = victim_of(arguments.weights, model, data, arguments.device)
        if victim is None:
            continue
        test, natural = (find(arguments.data, data, victim.frames) for find in (clips_of, natural_of))
        limit = min(arguments.limit or len(test), OF_OTHERS if model in OTHERS and arguments.limit else len(test))
        clips, so_far = in_any_order(choose(test, limit, seed=0), seed=0), begun.setdefault(name, {})
        text, threat = ATTACKS.get(attack) or BY_SCORES[attack], None
        if attack in BY_SCORES:
            threat = fb.threat.Linf(BALLS[data])
        record = measure(victim, clips, test, natural, text, so_far, results.write, threat, arguments.first)
        if record["n"] == len(clips):
            del begun[name]
            results.add(name, record)


if __name__ == "__main__":
    main()
