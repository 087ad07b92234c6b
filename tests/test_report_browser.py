"""The report as a person meets it: opened from disk in a browser without a network, played, turned and looked at."""

import io
import itertools
import shutil

import numpy as np
import pytest

from funnybone.auditing.leaderboard import leaderboards
from funnybone.auditing.schema import Hardening
from funnybone.report.comparison import to_html
from funnybone.report.html import render
from test_report import HOSTILE, LONG, attack, audit, gallery, transfer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
image = pytest.importorskip("PIL.Image", reason="pillow is not installed")

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]

SWITCHES = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
# WebGL on the processor: the same picture on every machine.
SWITCHES += ["--disable-component-update", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def browsers():
    """One browser with WebGL and one where it is locked away."""
    with sync_api.sync_playwright() as started:
        opened = {
            kind: started.chromium.launch(executable_path=CHROMIUM, args=[*SWITCHES, *more])
            for kind, more in (("webgl", []), ("canvas", ["--disable-3d-apis"]))
        }
        yield opened
        for browser in opened.values():
            browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    victims = audit().victims
    hardening = Hardening(base=LONG, settings={LONG: HOSTILE}, fitted=None)
    victims[1] = victims[1].model_copy(update={"hardening": hardening})
    many = victims[0].model_copy(update={"name": LONG, "attacks": [attack(f"{LONG}-{k}") for k in range(9)]})
    data = audit().data.model_copy(update={"name": LONG, "synthetic": True})
    shown = transfer(("stgcn", HOSTILE, LONG, "sgn", "ctrgcn"), attacks=("mifgsm", LONG))
    made = audit(data=data, victims=[*victims, many], meaning=[f"{LONG}{LONG} {HOSTILE}"], **shown)
    path.write_text(render(made, gallery()), encoding="utf-8")
    return path


class View:
    """An open report, and what its stage looks like."""

    def __init__(self, page) -> None:
        self.page = page
        self.root = page.locator("[data-player]")

    def role(self, name: str):
        return self.page.locator(f"[data-role={name}]")

    def pixels(self) -> np.ndarray:
        """The stage as (H, W, 3); of a paused one once two looks agree, for drawing waits for the next frame."""
        shot = self._shot()
        if self.state == "playing":
            return shot
        for _ in range(20):
            again = self._shot()
            if np.array_equal(shot, again):
                return again
            shot = again
        raise AssertionError("the stage does not come to rest")

    def _shot(self) -> np.ndarray:
        self.page.evaluate("document.querySelector('[data-role=stage]').scrollIntoView({block: 'center'})")
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        raw = self.role("stage").screenshot()
        return np.asarray(image.open(io.BytesIO(raw)).convert("RGB")).astype(int)

    def choose(self, index: int) -> None:
        self.role("example").select_option(str(index))

    def seek(self, frame: int) -> None:
        self.role("scrub").evaluate("(e, k) => { e.value = k; e.dispatchEvent(new Event('input')); }", frame)

    @property
    def state(self) -> str:
        return self.root.get_attribute("data-state")

    @property
    def frame(self) -> float:
        return float(self.root.get_attribute("data-frame"))


@pytest.fixture
def open_report(browsers, report):
    """Open the report as asked for; after the test, fail on any error in it or any request out of it."""
    contexts, troubles, allowed = [], [], {report.as_uri()}

    def opened(kind: str = "webgl", width: int = 900, height: int = 640, scheme: str = "light", **more):
        wanted = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, "reduced_motion": "reduce"}
        context = browsers[kind].new_context(**(wanted | more), offline=True)
        contexts.append(context)
        context.set_default_timeout(120_000)  # the machine may be shared
        page = context.new_page()
        page.on("console", lambda said: said.type != "error" or troubles.append(said.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda asked: asked.url in allowed or troubles.append(asked.url[:200]))
        page.goto(report.as_uri())
        page.wait_for_selector("[data-renderer]")
        view = View(page)
        page.evaluate("document.querySelector('[data-role=stage]').scrollIntoView({block: 'center'})")
        return view

    yield opened
    for context in contexts:
        context.close()
    assert not troubles


def figure(pixels: np.ndarray) -> np.ndarray:
    """Where a figure is drawn: far from the background, further than the floor's lines and the shadows are."""
    background = np.median(pixels[:20].reshape(-1, 3), axis=0)
    return np.abs(pixels - background).max(-1) > 62


def box(mask: np.ndarray) -> tuple[float, float]:
    """Height and width of what is drawn, as shares of the view."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert len(rows), "nothing is drawn"
    return (np.ptp(rows) + 1) / mask.shape[0], (np.ptp(columns) + 1) / mask.shape[1]


def halves(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    middle = pixels.shape[1] // 2
    return pixels[:, : middle - 2], pixels[:, middle + 2 :]


@pytest.mark.parametrize("kind", ["webgl", "canvas"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_fill_their_views(open_report, kind, scheme):
    view = open_report(kind, scheme=scheme)
    assert view.root.get_attribute("data-renderer") == kind
    for index in range(6):
        view.choose(index)
        for half in halves(view.pixels()):
            height, width = box(figure(half))
            assert 0.35 < height < 0.97, index
            assert 0.08 < width < 0.97, index
            assert 0.004 < figure(half).mean() < 0.3, index


@pytest.mark.parametrize("kind", ["webgl", "canvas"])
def test_it_moves_while_playing_and_only_then(open_report, kind):
    view = open_report(kind)
    start = view.pixels()
    view.role("play").click()
    assert view.state == "playing"
    # A look may take a second on a busy machine, and the clip rests a moment at its end.
    assert any(not np.array_equal(view.pixels(), start) for _ in range(10))
    view.role("play").click()
    assert view.state == "paused"
    held = view.pixels()
    view.page.wait_for_timeout(300)
    assert np.array_equal(view.pixels(), held)


# 30 frames a second; a busy machine may fall behind, it must not run ahead.
@pytest.mark.parametrize(("speed", "least", "most"), [("1", 18, 36), ("0.1", 1.8, 3.9)])
def test_it_plays_in_real_time(open_report, speed, least, most):
    view = open_report("canvas")
    view.role("speed").select_option(speed)
    measure = """async root => {
        const wait = seconds => new Promise(done => setTimeout(done, 1000 * seconds));
        root.querySelector('[data-role=play]').click();
        await wait(0.15);
        const [frame, start] = [Number(root.dataset.frame), performance.now()];
        await wait(0.7);
        return (Number(root.dataset.frame) - frame) / (performance.now() - start) * 1000;
    }"""
    assert least < view.root.evaluate(measure) < most


@pytest.mark.parametrize("kind", ["webgl", "canvas"])
def test_scrubbing_shows_the_frame(open_report, kind):
    view = open_report(kind)
    first = view.pixels()
    view.seek(22)
    middle = view.pixels()
    assert view.frame == 22
    assert view.role("frame").inner_text() == "23 / 60"
    assert view.role("seconds").inner_text() == "0.73 s"
    assert (np.abs(middle - first).max(-1) > 40).mean() > 0.002
    view.seek(0)
    assert np.array_equal(view.pixels(), first)


@pytest.mark.parametrize("kind", ["webgl", "canvas"])
def test_overlay_puts_both_into_one_view(open_report, kind):
    view = open_report(kind)
    view.seek(30)
    beside = figure(view.pixels())
    view.role("overlay").check(force=True)
    overlaid = figure(view.pixels())
    middle = slice(int(0.4 * beside.shape[1]), int(0.6 * beside.shape[1]))
    assert not beside[:, middle].any()
    assert overlaid[:, middle].any()
    assert overlaid.sum() < 0.75 * beside.sum()


@pytest.mark.parametrize("kind", ["webgl", "canvas"])
def test_displacement_is_seen_as_colour(open_report, kind):
    view = open_report(kind)
    view.seek(30)

    def warm(pixels: np.ndarray) -> np.ndarray:
        """Red well above blue: no blue or grey figure has that."""
        return pixels[..., 0] - pixels[..., 2] > 60

    clean, adversarial = halves(view.pixels())
    assert not warm(clean).any()
    coloured = warm(adversarial)
    # The right arm was moved. It is on the left of a person who faces us; the rest keeps the cool end of the scale.
    assert 150 < coloured.sum() < 0.5 * figure(adversarial).sum()
    assert np.flatnonzero(coloured.any(0)).mean() < np.flatnonzero(figure(adversarial).any(0)).mean()
    assert view.role("legend-top").inner_text() == "200 mm"
    assert "right_" in view.role("largest-joint").inner_text()
    view.role("colour").uncheck()
    assert warm(halves(view.pixels())[1]).sum() > 0.6 * figure(adversarial).sum()
    assert not view.role("legend").is_visible()


def test_exaggeration_is_drawn_and_said(open_report):
    view = open_report()
    view.seek(30)
    before = halves(view.pixels())
    view.role("push").select_option("5")
    after = halves(view.pixels())
    assert np.array_equal(before[0][:250], after[0][:250])
    assert not np.array_equal(before[1], after[1])
    assert "×5, not to scale" in view.role("exaggerated").inner_text()


def test_person_who_is_not_there_yet_is_not_drawn(open_report):
    view = open_report()
    view.choose(1)
    view.seek(5)
    alone = figure(halves(view.pixels())[0])
    view.seek(50)
    together = figure(halves(view.pixels())[0])
    assert box(together)[1] > 1.8 * box(alone)[1]
    assert together.sum() > 1.6 * alone.sum()


def test_whichever_axis_is_up_the_picture_is_the_same(open_report):
    view = open_report()
    pictures = []
    for index in (0, 2, 3):
        view.choose(index)
        view.seek(20)
        pictures.append(view.pixels())
    for other in pictures[1:]:
        assert (np.abs(other - pictures[0]).max(-1) > 24).mean() < 1e-3


def test_mouse_and_keys_turn_the_view_and_reset_turns_it_back(open_report):
    view = open_report()
    home = view.pixels()
    place = view.role("stage").bounding_box()
    middle = (place["x"] + place["width"] / 4, place["y"] + place["height"] / 2)
    view.page.mouse.move(*middle)
    view.page.mouse.down()
    view.page.mouse.move(middle[0] + 90, middle[1] + 30, steps=4)
    view.page.mouse.up()
    dragged = view.pixels()
    assert not np.array_equal(dragged, home)
    for key in ("ArrowLeft", "ArrowUp", "+"):
        view.page.locator("canvas").focus()
        before = view.pixels()
        view.page.keyboard.press(key)
        assert not np.array_equal(view.pixels(), before), key
    view.role("reset").click()
    view.page.locator("canvas").evaluate("e => e.blur()")
    assert np.array_equal(view.pixels(), home)


def test_touch_turns_the_view(open_report):
    view = open_report(width=390, has_touch=True, is_mobile=True)
    before = view.pixels()
    place = view.role("stage").bounding_box()
    x, y = place["x"] + place["width"] / 3, place["y"] + place["height"] / 2
    session = view.page.context.new_cdp_session(view.page)
    for kind, points in (
        ("touchStart", [{"x": x, "y": y}]),
        *(("touchMove", [{"x": x + 18 * step, "y": y}]) for step in range(1, 6)),
        ("touchEnd", []),
    ):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert not np.array_equal(before, view.pixels())


def test_keyboard_plays_and_seeks(open_report):
    view = open_report()
    view.page.locator("canvas").focus()
    view.page.keyboard.press("Space")
    assert view.state == "playing"
    view.page.keyboard.press("Space")
    assert view.state == "paused"
    for focus, key, frame in (
        ("canvas", "End", 59),
        ("canvas", "Home", 0),
        ("[data-role=scrub]", "ArrowRight", 1),
        ("[data-role=scrub]", "PageUp", 11),
    ):
        view.page.locator(focus).focus()
        view.page.keyboard.press(key)
        view.pixels()
        assert view.frame == frame, key
    view.role("play").focus()
    view.page.keyboard.press("Space")
    assert view.state == "playing", "a button must not be pressed twice by one key"


def test_every_control_is_reached_by_tab_and_has_a_name(open_report):
    view = open_report()
    view.role("example").focus()
    reached = []
    for _ in range(14):
        found = view.page.evaluate(
            """() => {
                const e = document.activeElement, s = getComputedStyle(e), n = e.nextElementSibling;
                const ring = s.outlineStyle !== 'none' || (n && getComputedStyle(n).outlineStyle !== 'none');
                const name = e.ariaLabel || e.innerText || [...(e.labels ?? [])].map(l => l.innerText).join('');
                return [e.dataset.role ?? e.tagName, Boolean(name.trim()), ring];
            }"""
        )
        reached.append(found[0])
        assert found[1:] == [True, True], found
        if found[0] == "reset":
            break
        view.page.keyboard.press("Tab")
    wanted = ["example", "side", "CANVAS", "back", "play", "forth", "scrub", "speed", "colour", "follow", "push"]
    assert [name for name in reached if name in wanted] == wanted


def test_autoplay_respects_reduced_motion(open_report):
    calm = open_report()
    calm.page.wait_for_timeout(300)
    assert calm.state == "paused"
    lively = open_report(reduced_motion="no-preference")
    lively.page.wait_for_selector("[data-player][data-state=playing]")


@pytest.mark.parametrize("kind", ["webgl", "canvas"])
def test_both_themes_by_preference_and_by_switch(open_report, kind):
    light, dark = (open_report(kind, scheme=scheme) for scheme in ("light", "dark"))
    bright, dim = (np.median(view.pixels()[:15], axis=(0, 1)) for view in (light, dark))
    assert bright.min() > 200 > 60 > dim.max()
    page_colour = "getComputedStyle(document.body).backgroundColor"
    assert light.page.evaluate(page_colour) != dark.page.evaluate(page_colour)
    light.page.locator("[data-theme-switch]").click()
    assert np.abs(np.median(light.pixels()[:15], axis=(0, 1)) - dim).max() < 3
    assert light.page.evaluate(page_colour) == dark.page.evaluate(page_colour)


@pytest.mark.parametrize("width", [320, 360, 768, 1440])
def test_nothing_overflows_the_page(open_report, width):
    view = open_report(width=width, height=740)
    for index in (0, 2, 5):
        view.choose(index)
        assert view.page.evaluate("document.documentElement.scrollWidth") <= width
        outside = view.page.evaluate(
            """() => [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, .unseen'))
                .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 120))"""
        )
        assert not outside
    assert box(figure(halves(view.pixels())[0]))[0] > 0.25


def test_hostile_names_are_shown_and_do_nothing(open_report):
    view = open_report()
    view.choose(5)
    assert view.role("truth").inner_text() == HOSTILE
    assert HOSTILE in view.role("example").locator("option").nth(5).inner_text()
    assert view.page.evaluate("window.hit") is None
    assert view.page.locator("img").count() == 0


def test_policy_refuses_a_script_that_was_smuggled_in(browsers, report, tmp_path):
    smuggled = tmp_path / "smuggled.html"
    smuggled.write_text(report.read_text(encoding="utf-8").replace("<footer", "<script>window.hit = 1</script><footer"))
    page = browsers["webgl"].new_page()
    page.goto(smuggled.as_uri())
    page.wait_for_selector("[data-renderer]")
    assert page.evaluate("window.hit") is None
    page.close()


def test_captions_tell_prediction_truth_and_outcome(open_report):
    view = open_report()
    assert view.page.locator(".captions p").all_inner_texts() == ["Clean: walk", "Adversarial: jog"]
    assert view.role("verdict").inner_text() == "Attack succeeded"
    assert view.role("mean").inner_text() == "9.3 mm"
    view.choose(4)
    assert view.role("mean").inner_text().endswith("px")


# The luminance of what stands in a cell and of what is under it, as WCAG 2 defines it, through a canvas, which knows
# every notation of a colour.
CONTRASTS = """() => {
  const pen = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d');
  const luminance = colour => {
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const linear = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  return [...document.querySelectorAll('.heat td:not(.hnone)')].map(cell => {
    const under = luminance(getComputedStyle(cell).backgroundColor);
    const over = [...cell.querySelectorAll('b, small')].map(text => luminance(getComputedStyle(text).color));
    const contrast = over.map(text => (Math.max(text, under) + 0.05) / (Math.min(text, under) + 0.05));
    return [parseFloat(cell.innerText), under, Math.min(...contrast)];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_cells_of_transfer_are_shaded_by_their_rate_and_readable(open_report, scheme):
    cells = open_report(scheme=scheme).page.evaluate(CONTRASTS)
    assert len(cells) == 2 * (3 * 5 - 1)
    assert min(contrast for _, _, contrast in cells) >= 4.5
    shades = {}
    for rate, shade, _ in cells:
        shades.setdefault(shade, []).append(rate)
    assert len(shades) >= 9
    # The surer the attack, the darker on a light page, the brighter than the card on a dark one.
    ordered = [shades[shade] for shade in sorted(shades, reverse=scheme == "light")]
    for fainter, stronger in itertools.pairwise(ordered):
        assert max(fainter) < min(stronger)


def test_matrices_scroll_on_a_phone_and_keep_their_first_column(open_report):
    view = open_report(width=360, height=740)
    matrix = view.page.locator(".heats .scroll").first
    matrix.scroll_into_view_if_needed()
    assert matrix.evaluate("e => e.scrollWidth > e.clientWidth && e.getBoundingClientRect().right <= innerWidth")
    before = matrix.locator("tbody th").first.bounding_box()["x"]
    caption = matrix.locator("caption span").bounding_box()
    assert caption["x"] + caption["width"] <= 360
    matrix.evaluate("e => { e.scrollLeft = 200; }")
    assert matrix.locator("tbody th").first.bounding_box()["x"] == pytest.approx(before, abs=1)
    assert matrix.locator("caption span").bounding_box()["x"] == pytest.approx(caption["x"], abs=1)


def test_a_comparison_opens_without_a_complaint(browsers, tmp_path):
    path = tmp_path / "comparison.html"
    own = audit()
    path.write_text(to_html(leaderboards([("one", own)])), encoding="utf-8")
    page = browsers["canvas"].new_page(viewport={"width": 400, "height": 800})
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    assert page.locator("tbody tr").count() == len(own.victims)
    assert page.locator("tbody b").count() == 2 * len(own.victims)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # the table scrolls, not the page
    page.locator("[data-theme-switch]").click()
    assert page.evaluate("document.documentElement.dataset.theme") in ("dark", "light")
    assert not said
    page.close()
