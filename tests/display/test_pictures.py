"""Pictures and the page's charts: ticks that span what is drawn, and curves that can be told apart.

Both are looked at as they are drawn: matplotlib's figure, the page's elements.
"""

import itertools
import math
import random
import re
from dataclasses import replace
from importlib import resources

import matplotlib
import numpy as np
import pytest
from matplotlib import colors, pyplot

from lexp.display.axes import (
    PLOT_WIDTHS,
    ZOOMS,
    label_widths,
    labels,
    log_ticks,
    readable,
    signed_axis,
    spans,
    x_ticks,
    y_axis,
    y_ticks,
    zoomed_ticks,
)
from lexp.display.document import Chart, Curve, Page, Point, Section
from lexp.display.html import render
from lexp.display.line_ends import spread_out
from lexp.display.png import FILLS, MARKERS, STYLES, chart_figure, chart_png, heat_maps
from lexp.display.style import (
    COLOURS,
    KEPT,
    N_FILLS,
    N_SHAPES,
    N_STYLES,
    WELL_KNOWN,
    CurveStyles,
    numbered,
    numbered_names,
)
from lexp.display.svg import SHAPES
from lexp.evaluate import EvalResult, RunInfo, ScoredText
from lexp.extension import Extension
from lexp.pattern import Full, Window
from lexp.report.perplexity_chart import results_chart
from lexp.result_store import NOT_DEFINED, OK, component_of
from lexp.scoring.protocol import Segments
from lexp.system.text import natural
from support.pages import Tree

LENGTHS = (128, 256, 512, 1024)
PLAIN = re.compile(r"\d+(\.\d+)?")
TISA = [f"tisa n_kernels={n}" for n in (1, 3, 5)]
MODELS = ["nope", "rope", "rope_tisa", "sinusoidal", "sinusoidal_tisa", *TISA, "alibi", "xpos"]
METHODS = [
    "blockwise", "blockwise_sinks", "window", "window_sinks", "lm_infinite", "self_extend",
    "rerope", "leaky_rerope", "dual_chunk", "full", "full pi", "full ntk", "full dynamic_ntk",
    "full ntk_by_parts", "full yarn", "full log_n",
]  # fmt: skip


FULL = Full()


def cell(
    ppl: float, length: int, model="rope", pattern=FULL, seed=0, precision="float32", variant=""
) -> EvalResult:
    ok = math.isfinite(ppl)
    run = RunInfo(
        model,
        model,
        "nano",
        "books",
        seed,
        128,
        "bytes",
        precision,
        "aaaaaaaa",
        variant or model,
        "t",
    )
    return EvalResult(
        run, component_of(pattern), component_of(Extension()), Segments().info([1024]), length, 4,
        4096, ScoredText("d", "t", 4, 0), math.log(ppl) if ok else ppl, ppl, 1.0, 1.0,
        status=OK if ok else NOT_DEFINED,
    )  # fmt: skip


def between(low: float, high: float, lengths=LENGTHS) -> Chart:
    """The chart of two models whose perplexities fill a range."""
    share = [n / (len(lengths) - 1) for n in range(len(lengths))]
    rows = [("rope", low, high), ("alibi", low, math.sqrt(low * high))]
    cells = [
        cell(a * (b / a) ** s, length, model)
        for model, a, b in rows
        for s, length in zip(share, lengths, strict=True)
    ]
    return results_chart(cells, {})


def many(names, groups) -> Chart:
    points = tuple(Point(n, 5.0 + n / 1000) for n in LENGTHS)
    curves = tuple(Curve(name, group, points) for name in names for group in groups)
    return Chart("t", "length", "ppl", True, True, curves, ((128.0, "trained"),))


def seen(axis) -> list[tuple[float, str]]:
    """The ticks of an axis that can be seen with their labels; no label touches another."""
    (low, high), name = sorted(axis.get_view_interval()), axis.axis_name
    ticks = [(tick.get_loc(), tick.label1) for tick in axis.get_major_ticks()]
    shown = [(at, text) for at, text in ticks if low <= at <= high and text.get_visible()]
    boxes = [text.get_window_extent() for _, text in shown]
    ends = [(b.x0, b.x1) if name == "x" else (b.y0, b.y1) for b in boxes]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(sorted(ends))), "labels overlap"
    assert not axis.get_ticklocs(minor=True).size
    return [(at, text.get_text()) for at, text in shown]


def drawn(chart: Chart, styles: CurveStyles | None = None):
    figure = chart_figure(chart, styles or CurveStyles.of([chart]))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    pyplot.close(figure)
    return axes


RANGES = [
    (10.0, 10.8), (3.9, 2000), (7.3, 19.7), (9.6, 17.5), (7.6, 16.4), (10.01, 10.02), (5.2, 5.9),
    (2.1, 9.4), (11.0, 29.9), (1.01, 1e6), (99.0, 101.0), (1999.0, 2001.0),
]  # fmt: skip


def spread(low: float, high: float, places: list[float]) -> tuple[float, float]:
    """Least and greatest gap between places on a log axis, its ends included in the greatest."""
    at = [math.log(place / low) / math.log(high / low) for place in places]
    gaps = [b - a for a, b in itertools.pairwise(at)]
    return min(gaps), max(at[0], 1 - at[-1], *gaps)


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_perplexities_of_any_range_have_ticks_that_span_them(low, high):
    axes = drawn(between(low, high))
    found = seen(axes.yaxis)
    assert axes.get_yscale() == "log" and 3 <= len(found) <= 12
    for at, text in found:
        assert PLAIN.fullmatch(text) and float(text) == pytest.approx(at, rel=1e-9)
    assert spread(*axes.get_ylim(), [at for at, _ in found])[1] < 0.55
    # The page has as many.
    tree = Tree(render(Page("t", "", (Section("s", "", (between(low, high),)),))))
    texts = [text for tag, text in tree.texts if tag == "text"]
    numbers = [float(text) for text in texts[: texts.index("128")]]
    assert len(numbers) >= 3 and len(set(numbers)) == len(numbers)
    assert max(numbers) > math.sqrt(low * high) > min(numbers)


def test_round_values_are_at_least_four_apart_and_everywhere():
    draw = random.Random(0)
    for _ in range(3000):
        low = draw.uniform(-1, 4)
        high = low + 10 ** draw.uniform(-4, 0.8)
        ticks = log_ticks(low, high)
        least, most = spread(10**low, 10**high, ticks)
        assert 4 <= len(ticks) <= 12 and least > 0.05 and most < 0.55, (low, high, ticks)
        for text, tick in zip(labels(ticks), ticks, strict=True):
            assert float(text) == pytest.approx(tick, rel=1e-9)
    for high in (20, 300):
        assert 4 <= len(log_ticks(0, high)) <= 9
    same = y_ticks(y_axis([5.0, 5.0 + 1e-14], True))  # nothing to choose from but one value
    assert 4 <= len(same) <= 12 and 4 < same[0] < 5 < same[-1] < 6


def test_every_part_of_an_axis_has_ticks_of_its_own_when_it_is_shown_taller():
    draw = random.Random(1)
    ranges = [list(pair) for pair in RANGES] + [[5.0], [5.0, 5.0 + 1e-14], [1e-9, 1e300]]
    for _ in range(100):
        low = 10 ** draw.uniform(-3, 5)
        ranges.append([low, low * 10**10 ** draw.uniform(-5, 1)])
    for values, log, zoom in itertools.product(ranges, (True, False), ZOOMS[1:]):
        axis = y_axis(values, log)
        ticks = zoomed_ticks(axis, zoom)
        texts = labels(ticks)
        assert len(set(texts)) == len(texts)
        for text, tick in zip(texts, ticks, strict=True):
            assert float(text) == pytest.approx(tick, rel=1e-9, abs=1e-9 * abs(values[-1]))
        # Pixels of a view of this zoom, and of the smallest one that these ticks are for.
        places = [zoom * axis.place(tick) for tick in ticks]
        gaps = [a - b for a, b in itertools.pairwise(places)]
        assert min(gaps) / math.sqrt(2) > 15
        height = axis.start - axis.end
        ends = [zoom * axis.start, *places, zoom * axis.end]
        assert max(a - b for a, b in itertools.pairwise(ends)) < 0.6 * height, (values, log, zoom)


def test_labels_of_an_axis_come_one_by_one_as_a_chart_grows():
    draw = random.Random(2)
    for _ in range(200):
        shares = sorted(draw.uniform(0, 1) for _ in range(draw.randint(1, 15)))
        texts = [str(draw.randint(1, 10**6)) for _ in shares]
        widths = label_widths(shares, texts, {0})
        assert widths[0] == PLOT_WIDTHS[0]
        for width in (*PLOT_WIDTHS, 230, 380, 520, 720, 1120):
            stretched = [width * share for share in shares]
            shown = [n for n, least in enumerate(widths) if least and least <= width]
            reach = [spans(stretched, texts)[n] for n in shown]
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(reach)), (width, shares, texts)
        left_out = [n for n, least in enumerate(widths) if least is None]
        reach = spans([PLOT_WIDTHS[-1] * share for share in shares], texts)
        others = [reach[n] for n, least in enumerate(widths) if least is not None]
        assert all(any(reach[n][0] < b and a < reach[n][1] for a, b in others) for n in left_out)


@pytest.mark.parametrize(
    ("lengths", "wanted"),
    [
        (LENGTHS, "128 256 512 1024"),
        ((96, 128, 300, 4096, 16384, 100000), "128 300 4096 16384 100000"),
        ((64, 128, 1024), "64 128 1024"),
        ((100, 128, 130, 256, 512), "100 128 256 512"),
        # Too near to each other all of them: round numbers, and no fewer than three.
        ((124, 125, 126, 127, 128, 129, 4096), "128 256 512 1024 2048 4096"),
    ],
)
def test_lengths_are_labelled_the_trained_one_first(lengths, wanted):
    found = seen(drawn(between(5, 6, lengths)).xaxis)
    assert " ".join(text for _, text in found) == wanted
    assert all(float(text) == at for at, text in found)


def test_a_log_axis_of_many_values_has_three_labels_wherever_it_is():
    for low, high in ((600, 900), (1000, 1040), (1, 2048), (20, 5e6), (100, 399)):
        values = [low * (high / low) ** (n / 40) for n in range(41)]
        curve = Curve("a", "", tuple(Point(x, 1.0 + x / high) for x in values), own_x=True)
        found = seen(drawn(Chart("t", "x", "y", True, False, (curve,))).xaxis)
        assert len(found) >= 3 and spread(low / 1.3, high * 1.3, [at for at, _ in found])[1] < 0.5
        assert all(PLAIN.fullmatch(text) for _, text in found)
    assert x_ticks([0, 1, 2, 3, 4], False) == [0, 1, 2, 3, 4]  # layers
    assert len(x_ticks([3.6325, 3.6502, 3.6561, 3.9092], False)) >= 4  # losses


def test_an_axis_of_both_signs_shows_small_and_large_differences():
    axis = signed_axis([-0.004, 0.002, 3.0], 0.01)
    places = [axis.place(value) for value in (-0.004, 0, 0.002, 0.01, 0.1, 1, 3.0)]
    assert places == sorted(places, reverse=True)  # upwards
    assert places[1] - places[2] > 8 and places[1] - places[3] == pytest.approx(
        math.asinh(1) * (axis.start - axis.end) / (axis.high - axis.low)
    )
    assert y_ticks(axis) == pytest.approx([0, 0.01, 0.03, 0.1, 0.3, 1, 3])
    assert y_ticks(signed_axis([-0.5, 3.4], 0.01)) == [-0.1, -0.01, 0, 0.01, 0.1, 1]
    assert y_ticks(signed_axis([0.001, -0.002], 0.01)) == [-0.002, -0.001, 0, 0.001]
    for zoom in ZOOMS:
        found = [zoom * axis.place(value) for value in zoomed_ticks(axis, zoom)]
        assert len(found) >= 4 and all(a - b >= 22 for a, b in itertools.pairwise(found))
    curve = Curve("a", "", (Point(1, -0.004), Point(2, 3.0)))
    chart = Chart("t", "x", "y", False, False, (curve,), linear_to=0.01)
    shown = seen(drawn(chart).yaxis)
    assert [value for value, _ in shown] == pytest.approx([0, 0.01, 0.03, 0.1, 0.3, 1, 3])
    tree = Tree(render(Page("t", "", (Section("s", "", (chart,)),))))
    texts = [text for tag, text in tree.texts if tag == "text"]
    assert texts[:7] == ["0", "0.01", "0.03", "0.1", "0.3", "1", "3"]


def test_numbers_on_axes_say_which_they_are():
    assert labels([16384, 32768]) == ["16384", "32768"]
    assert labels([1999.5, 2000, 2000.5]) == ["1999.5", "2000", "2000.5"]
    assert labels([9.995, 10, 10.005]) == ["9.995", "10", "10.005"]
    assert labels([0.1 + 0.2]) == ["0.3"] and labels([]) == []
    spans = [(0, 10), (8, 18), (16, 26), (24, 34)]
    assert readable(spans, {1}) == {1, 3} and readable(spans, ()) == {0, 3}
    assert natural("n_kernels=3") < natural("n_kernels=10") and natural("a=0.05") < natural("a=0.1")


FILLED = dict(zip(FILLS, ("", " open", " pale"), strict=True))


def _fill(line) -> float:
    """How much of the line's colour is in its markers."""
    line_colour, face = (colors.to_rgb(c) for c in (line.get_color(), line.get_markerfacecolor()))
    shares = {round((1 - f) / (1 - c), 3) for f, c in zip(face, line_colour, strict=True) if c < 1}
    (share,) = shares
    return share


def triples(chart: Chart, styles: CurveStyles | None = None) -> dict[tuple[str, str], tuple]:
    """Colour, line and marker of each curve of a picture."""
    lines = drawn(chart, styles).get_lines()[: len(chart.curves)]
    return {
        (curve.name, curve.group): (
            colors.to_hex(line.get_color()), repr(line._unscaled_dash_pattern),
            line.get_marker() + FILLED[_fill(line)],
        )
        for curve, line in zip(chart.curves, lines, strict=True)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["rope"], METHODS[:9]),  # of study context_extension
        (["rope"], METHODS),
        (["rope", "alibi"], METHODS),
        (MODELS[:8], ["full", "blockwise", "window"]),  # of study tisa
        (MODELS, METHODS),
        ([f"model_{n}" for n in range(60)], ["full", "window"]),
    ],
)
def test_no_two_curves_look_the_same(names, groups):
    chart = many(names, groups)
    found = triples(chart)
    assert len(set(found.values())) == len(found) == len(names) * len(groups)
    if 1 < len(names) <= 10:
        # A model has one colour and a method one line, whatever the other is.
        assert all(len({found[name, group][0] for group in groups}) == 1 for name in names)
        for group in groups:
            looks = [found[name, group][1:] for name in names]
            assert len({(dash, marker.split(" ")[1:] == []) for dash, marker in looks}) == 1
        assert len({found[name, "full"][0] for name in names}) == len(names)
    if len(names) == 1:
        assert len({colour for colour, *_ in found.values()}) == min(10, len(groups))
    tree = Tree(render(Page("t", "", (Section("s", "", (chart,)),))))
    page = [(a["class"], a["data-shape"]) for a in tree.all("g", "curve")]
    assert len(set(page)) == len(page) == len(found)


def test_legends_name_every_look():
    chart = many(["rope", "alibi", "xpos"], METHODS[:9])
    figure = chart_figure(chart, CurveStyles.of([chart]))
    pyplot.close(figure)
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["rope", "alibi", "xpos", *METHODS[:9]]
    keys = legend.get_lines()
    lines = figure.axes[0].get_lines()
    assert [k.get_color() for k in keys[:3]] == [line.get_color() for line in lines[:27:9]]
    dashes = [k._unscaled_dash_pattern for k in keys[3:]]
    assert dashes == [line._unscaled_dash_pattern for line in lines[:9]]
    assert (
        len({(repr(d), k.get_markerfacecolor()) for d, k in zip(dashes, keys[3:], strict=True)})
        == 9
    )


def rising(last: dict[tuple[str, str], float]) -> Chart:
    """Curves that go from 5 to a last value each."""
    curves = [
        Curve(name, group, (Point(128, 5.0), Point(1024, y))) for (name, group), y in last.items()
    ]
    return Chart("t", "length", "ppl", True, True, tuple(curves))


# Three that end together, one that ends early and low, one without any number.
LAST = {
    ("rope", "full"): 900.0, ("rope", "window"): 7.001, ("alibi", "full"): 6.9,
    ("alibi", "window"): 7.0, ("xpos", "full"): 7.002, ("xpos", "window"): 30.0,
}  # fmt: skip
EARLY = Curve("learned", "full", (Point(128, 4.0), Point(1024, math.nan)))
NEVER = Curve("t5", "full", (Point(128, math.nan), Point(1024, math.nan)))
IN_ORDER = [
    "rope full", "xpos window", "xpos full", "rope window", "alibi window", "alibi full",
    "learned full to 128",
]  # fmt: skip


def ending() -> Chart:
    chart = rising(LAST)
    return replace(chart, curves=(*chart.curves, EARLY, NEVER))


def test_labels_stand_at_the_ends_of_lines_in_order_and_apart():
    figure = chart_figure(ending(), CurveStyles.of([ending()]))
    figure.draw_without_rendering()
    pyplot.close(figure)
    (axes,) = figure.axes
    # What has no end to be labelled at is in a legend.
    assert "t5" in [text.get_text() for text in figure.legends[0].get_texts()]
    found = {t.get_text(): t.get_window_extent() for t in axes.texts}
    assert sorted(found, key=lambda text: -found[text].y0) == IN_ORDER
    boxes = sorted(found.values(), key=lambda box: box.y0)
    assert all(a.y1 <= b.y0 for a, b in itertools.pairwise(boxes))
    assert all(box.x0 > axes.get_window_extent().x1 for box in boxes)
    assert all(box.x1 < figure.get_window_extent().x1 for box in boxes)
    leads = [line for line in axes.get_lines() if line.get_linewidth() == 0.6]
    assert len(leads) == 6  # none to what ends early
    # The page has them at the same places in the same order.
    tree = Tree(render(Page("t", "", (Section("s", "", (ending(),)),))))
    ends = [a for a in tree.all("g", "end") if "hide" not in a["class"]]
    assert [int(a["data-curve"]) for a in ends] == [*range(7)]  # the last has no end
    assert len(tree.all("path", "lead")) == 6
    places = [float(a["transform"].split()[1].rstrip(")")) for a in tree.all("g", "to")]
    texts = [text for tag, text in tree.texts if tag == "text" and text in found]
    assert [texts[n] for n in sorted(range(7), key=lambda n: places[n])] == IN_ORDER
    assert min(b - a for a, b in itertools.pairwise(sorted(places))) >= 11.99


def test_a_picture_whose_curves_are_all_labelled_needs_no_legend():
    for chart, texts in (
        (rising(LAST), [*IN_ORDER[:-1]]),
        (many(["rope"], METHODS[:3]), ["blockwise", "blockwise_sinks", "window"]),
        (many(["rope", "xpos"], ["full"]), ["rope", "xpos"]),
    ):
        figure = chart_figure(chart, CurveStyles.of([chart]))
        pyplot.close(figure)
        found = {t.get_text() for t in figure.axes[0].texts} - {"trained"}
        assert not figure.legends and found == {*texts}


def test_a_title_meets_neither_a_legend_nor_the_edge():
    long = [f"model_{n} with=a_name_of_many_letters and=more_than_48_of_them" for n in range(3)]
    for names in (long, ["rope", f"{'x' * 40} 1"]):
        title = "Perplexity by context length - " + "a, b " * 20
        chart = replace(many(names, ["full"]), title=title)
        figure = chart_figure(chart, CurveStyles.of([chart]))
        figure.draw_without_rendering()
        pyplot.close(figure)
        title = figure._suptitle.get_window_extent()
        assert figure._suptitle.get_text().replace("\n", " ") == chart.title.strip()
        assert title.x0 > 0 and title.x1 < figure.get_window_extent().x1
        assert bool(figure.legends) == (names is long)
        below = [legend.get_window_extent() for legend in figure.legends]
        below += [text.get_window_extent() for text in figure.axes[0].texts]
        assert below and not any(title.overlaps(box) for box in below)


def test_legends_go_by_rank():
    tree = Tree(render(Page("t", "", (Section("s", "", (ending(),)),))))
    texts = [text for tag, text in tree.texts if tag == "span"]
    assert texts[-7:-5] == ["full", "window"]
    assert texts[-5:] == ["alibi", "rope", "xpos", "learned", "t5"]
    many_lines = rising({(f"m{n}", g): 9.0 - n / 9 for n in range(13) for g in "ab"})
    figure = chart_figure(many_lines, CurveStyles.of([many_lines]))
    pyplot.close(figure)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [*(f"m{n}" for n in reversed(range(13))), "a", "b"]
    # No room for 26 labels: one of each model.
    assert {t.get_text() for t in figure.axes[0].texts} == {f"m{n} a" for n in range(13)}


def test_labels_that_would_collide_move_as_little_as_possible():
    assert spread_out([0, 50, 90], 10, 0, 100) == [0, 50, 90]
    assert spread_out([50, 50, 50], 10, 0, 100) == [40, 50, 60]
    assert spread_out([0, 1, 99, 100], 10, 0, 100) == [0, 10, 90, 100]
    assert spread_out([20, 26], 10, 0, 100) == [18, 28] and spread_out([], 1, 0, 1) == []
    draw = random.Random(4)
    for _ in range(200):
        places = sorted(draw.uniform(0, 100) for _ in range(draw.randint(1, 11)))
        moved = spread_out(places, 10, 0, 100)
        assert all(b - a > 10 - 1e-9 for a, b in itertools.pairwise(moved))
        assert moved[0] > -1e-9 and moved[-1] < 100 + 1e-9
        # No single label, nor all of them, could be nearer to where they belong.
        for n, (place, at) in enumerate(zip(places, moved, strict=True)):
            step = math.copysign(1e-3, place - at)
            others = [at for m, at in enumerate(moved) if m != n]
            free = all(abs(at + step - other) > 10 for other in others) and 0 <= at + step <= 100
            assert not free or abs(place - at) < 2e-3


def test_intervals_of_single_values_are_not_in_pictures():
    points = tuple(Point(x, 5.0, 4.0, 6.0) for x in LENGTHS)
    curves = (Curve("rope", "full", points), Curve("xpos", "full", points))
    differences = Chart("t", "x", "y", True, False, curves)
    for chart, n_bands in ((differences, 2), (replace(differences, absolute=True), 0)):
        axes = drawn(chart)
        assert len(axes.collections) == n_bands
        tree = Tree(render(Page("t", "", (Section("s", "", (chart,)),))))
        assert len(tree.all("figure", "bands")) == (n_bands > 0)


# Linear RGB to the light that the three kinds of cones take, and what those who lack the first or
# the second kind see in its place (Viénot, Brettel, Mollon 1999).
CONES = np.array([
    [17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709],
])  # fmt: skip
SIGHTS = {
    "all": np.eye(3),
    "protanope": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
    "deuteranope": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
}


def lab(colour: str, cones: np.ndarray = SIGHTS["all"]) -> tuple[float, float, float]:
    """CIE L*a*b* as eyes with such cones see it; a distance of 2 is just seen."""
    rgb = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colors.to_rgb(colour)
    ]
    rgb = np.clip(np.linalg.inv(CONES) @ cones @ CONES @ rgb, 0, 1)
    rows = (0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)
    xyz = [sum(a * b for a, b in zip(row, rgb, strict=True)) / sum(row) for row in rows]
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("sight", SIGHTS)
def test_ten_colours_are_far_from_each_other_also_for_the_colour_blind(sight):
    css = (resources.files("lexp.display") / "assets" / "page.css").read_text(encoding="utf-8")
    sets = [list(COLOURS)]
    for n in range(3):  # light, dark, print
        sets.append([re.findall(rf"--c{k}: (#[0-9a-f]{{6}})", css)[n] for k in range(len(COLOURS))])
    assert [c.lower() for c in COLOURS] == sets[1] == sets[3]
    for found in sets:
        places = [lab(colour, SIGHTS[sight]) for colour in found]
        assert len(found) == 10
        assert min(math.dist(a, b) for a, b in itertools.combinations(places, 2)) > 20


def test_a_scheme_looks_the_same_in_every_study():
    studies = [
        [*WELL_KNOWN], [*reversed(WELL_KNOWN)], ["rope", "zebra"], ["a", "b", "nope", "alibi"],
        ["fire", "cope", "xpos", "learned"], MODELS, ["t5 lr=0.1", "kerple_log", "rope lr=0.1"],
    ]  # fmt: skip
    looks: dict[str, set] = {}
    for names in studies:
        chart = many(names, ["full", "window"])
        styles = CurveStyles.of([chart])
        for curve in chart.curves:
            style, scheme = styles.style(chart, curve), curve.name.split()[0]
            if scheme in WELL_KNOWN:
                looks.setdefault(scheme, set()).add((style.colour, style.shape))
    assert looks.keys() == WELL_KNOWN.keys()
    assert all(len(found) == 1 for found in looks.values())
    assert len({colour for ((colour, _),) in looks.values()}) == len(WELL_KNOWN)
    # Other names keep their looks too, where no name beside them has taken them.
    alone = numbered_names([["fire"]])["fire"]
    assert numbered_names([["fire", *WELL_KNOWN]])["fire"] == alone
    # Nobody else has the look of a well-known scheme, even where all colours are taken.
    given = numbered_names([[f"model_{n}" for n in range(52)]])
    assert len(set(given.values())) == 52 and not set(given.values()) & {*WELL_KNOWN.values()}
    # Of two variants one stands for the scheme, and the other is told apart.
    given = numbered_names([["rope lr=0.1", "rope lr=0.2"]])
    assert given["rope lr=0.1"] == WELL_KNOWN["rope"] != given["rope lr=0.2"]


def test_no_model_is_told_by_its_hue_alone():
    found = triples(many([*WELL_KNOWN], ["full"]))
    near = [("#1d61b3", "#01b5ff"), ("#b54902", "#e49615"), ("#000000", "#4a0864")]
    markers = {colour: marker for colour, _, marker in found.values()}
    assert all(markers[a] != markers[b] for a, b in near)
    assert len(set(markers.values())) == N_SHAPES


def test_the_page_draws_every_look_there_is():
    css = (resources.files("lexp.display") / "assets" / "page.css").read_text(encoding="utf-8")
    assert len(STYLES) == N_STYLES and len(MARKERS) == len(SHAPES) == N_SHAPES
    assert len(FILLS) == N_FILLS
    assert all(f".c{n} {{ color: var(--c{n}); }}" in css for n in range(len(COLOURS)))
    dashes = re.findall(r"\.d(\d) \.line \{ stroke-dasharray: ([\d. ]+); \}", css)
    assert [int(n) for n, _ in dashes] == [*range(1, N_STYLES)]
    assert len({pattern for _, pattern in dashes}) == N_STYLES - 1
    assert [int(n) for n in re.findall(r"\.f(\d) \.pt", css)] == [*range(1, N_FILLS)]


def test_a_model_and_a_method_look_the_same_in_all_pictures_of_a_command():
    one, other = many(MODELS[:4], ["full", "full yarn"]), many(MODELS[2:6], METHODS[:4])
    styles = CurveStyles.of([one, other])
    first, second = triples(one, styles), triples(other, styles)
    for name in MODELS[2:4]:
        assert first[name, "full"][0] == second[name, "window"][0]
    apart, beside = many(["a"], ["full"]), many(["b", "a"], ["window", "full"])
    assert (
        triples(apart, CurveStyles.of([apart]))["a", "full"][1:] == triples(beside)["a", "full"][1:]
    )


def test_the_usual_methods_have_their_lines_whatever_is_beside_them():
    for groups in (["blockwise", "window"], ["window", "rerope"], METHODS, ["blockwise"]):
        given = numbered([groups], KEPT)
        assert len(set(given.values())) == len(groups)
        assert all(given[g] == KEPT[g] for g in groups if g in KEPT)
        assert all(given[g] >= 3 for g in groups if g not in KEPT)
    # Both sides seen and causal, side by side: still apart.
    assert len(set(numbered([list(KEPT)], KEPT).values())) == len(KEPT)
    assert numbered([["a", "b"], ["c", "a"], ["b", "d"]], {}) == {"a": 0, "b": 1, "c": 1, "d": 0}


def test_results_are_means_ranges_and_gaps():
    cells = [cell(4.0, 128), cell(6.0, 128, seed=1), cell(math.nan, 256), cell(6.0, 256, seed=1)]
    cells += [cell(5.0, 128, precision="bfloat16"), cell(5.0, 512, pattern=Window())]
    cells += [cell(7.0, 512, variant="other")]
    chart = results_chart(cells, {"other": "lr=1"})
    title = "Perplexity by context length - nano, trained at 128 tokens, books"
    assert (chart.title, chart.label) == (title, "segments-1024")
    found = {(c.name, c.group): c.points for c in chart.curves}
    assert list(found) == [
        ("rope in float32", "full"), ("rope in float32", "window"), ("rope in bfloat16", "full"),
        ("rope lr=1 in float32", "full"),
    ]  # fmt: skip
    first, second = found["rope in float32", "full"]
    assert (first.x, first.y, first.low, first.high) == (128, 5.0, 4.0, 6.0)
    assert second.x == 256 and math.isnan(second.y)
    assert chart.marks == ((128.0, "trained"),)
    assert results_chart(cells[:2], {}).title == f"{title}, full attention"
    texts = [text.get_text() for text in drawn(chart).texts]
    assert "segments-1024" in texts
    for budgets, words in (([1_230_000], "1.23M"), ([2_000_000, 20_000, 16384], "16.4k to 2M")):
        titled = results_chart(cells, {}, budgets)
        assert titled.title == title.replace("tokens,", f"tokens on {words} tokens,")


def test_a_line_stops_where_a_cell_is_missing_or_failed():
    cells = [cell(5.0, n) for n in (128, 256, 1024, 2048)] + [cell(6.0, n, "a") for n in LENGTHS]
    cells += [cell(math.nan, 2048, "a")]
    rope, a, *_ = drawn(results_chart(cells, {})).get_lines()
    nan = math.nan
    assert list(rope.get_xdata()) == pytest.approx([128, 256, nan, 1024, 2048, nan], nan_ok=True)
    assert list(a.get_xdata()) == pytest.approx([*LENGTHS, nan], nan_ok=True)


def test_charts_without_a_number_are_drawn():
    assert seen(drawn(results_chart([cell(math.nan, 128)], {})).xaxis) == [(128, "128")]
    axes = drawn(Chart("t", "x", "y", True, True, ()))
    assert not axes.get_lines()


def test_a_matplotlibrc_of_the_current_folder_changes_no_picture(monkeypatch):
    """It is somebody else's; matplotlib takes it when it is imported."""
    chart = many(["rope"], ["full"])
    panels = [("a", np.eye(3))]
    plain = chart_png(chart), heat_maps("t", panels, "x", "y").png
    for key, value in {"axes.facecolor": "red", "text.usetex": True, "font.size": 30.0}.items():
        monkeypatch.setitem(matplotlib.rcParams, key, value)
    assert (chart_png(chart), heat_maps("t", panels, "x", "y").png) == plain
    assert matplotlib.rcParams["axes.facecolor"] == "red"  # a caller's own choices stay


@pytest.mark.filterwarnings("error")
def test_long_labels_leave_room_for_the_curves():
    """A variant is told by the globs of its texts, which may be long paths without a space."""
    points = tuple(Point(x, 2.0 + x) for x in LENGTHS)
    long = f"rope dataset.test=/{'long-folder/' * 20}*.txt"
    curves = tuple(Curve(f"{long} {n}", "full", points) for n in range(3))
    chart = Chart("t", "x", "y", True, False, curves)
    figure = chart_figure(chart, CurveStyles.of([chart]))
    width = figure.get_size_inches()[0] * figure.dpi
    (axes,) = figure.axes
    assert axes.get_window_extent().width > width / 3
    assert not [text for text in axes.texts if "rope" in text.get_text()]
    labels_shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(set(labels_shown)) == 3 and {x.count("\n") for x in labels_shown} == {3}
    pyplot.close(figure)
