"""What a reader must be able to see in a figure, asked of the figure itself before it becomes a PNG."""

import itertools

import numpy as np
import pytest

from etude.errors import BadInput
from etude.evidence import labels, plots, records
from etude.evidence.places import Place
from etude.evidence.runner import run_study
from etude.evidence.study import Plot


def arm(curves=None, metrics=None, ledger=None, **more):
    return {
        "about": "", "color": "", "reference": False, "metrics": metrics or {}, "curves": curves or {}, "counts": {},
        "ledger": ledger or [{"train": {"flops": 1e12}}] * 3, "diverged": [False] * 3, "parameters": [1] * 3, **more,
    }  # fmt: skip


def record_of(arms, **more):
    return {"slug": "toy", "size": "a size", "scale": "cpu", "seeds": [0, 1, 2], "arms": arms, **more}


def curves(name, x, *ys):
    return {name: [[list(x), list(y)] for y in ys]}


def texts(figure):
    return [t for a in figure.axes for t in (*a.texts, *ticks(a.xaxis), *ticks(a.yaxis), a.xaxis.label, a.yaxis.label)]


def ticks(axis):
    """The labels that are seen: an axis keeps some beyond its ends."""
    low, high = sorted(axis.get_view_interval())
    return [t for where, t in zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True) if low <= where <= high]


def assert_inside(figure):
    width, height = figure.get_size_inches() * figure.dpi
    for text in (*figure.texts, *texts(figure)):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            assert box.x0 >= 0, text
            assert box.y0 >= 0, text
            assert box.x1 <= width, text
            assert box.y1 <= height, text


def test_nothing_is_cut_off_however_long_the_words():
    loss = curves("loss / flops", [0, 1e11, 2e11], [3, 2, 1], [3, 2.2, 1.1], [3, 2.1, 1.2])
    names = ["baseline", "a-method-with-a-rather-long-name", "c"]
    size = "25 modes, 43k parameters / 4.1M training samples a generation, 3 generations, as long as a size may be"
    record = record_of({name: arm(loss, {"loss": [1.0, 1.1, 1.2]}) for name in names}, size=size)
    for plot in (
        Plot(title="Loss over FLOPs, with a title so long that no single line of such a figure has room for it", kind="curve",
             curve="loss / flops"),
        Plot(title="Loss", kind="bars", metric="loss"),
    ):  # fmt: skip
        figure = plots.paint(plot, record)
        assert_inside(figure)
        head = " ".join(t.get_text() for t in figure.texts)
        assert plot.title in head
        assert f"toy, {size}, 3 seeds" in head


@pytest.mark.parametrize("ends", [[0.5] * 9, np.linspace(0, 0.1, 9), [0.0, 1.0, 1.0, 1.0, 0.98], np.linspace(0, 1, 30)])
def test_names_of_lines_stand_apart_and_in_the_lines_order(ends):
    heights = labels.place(ends, 0.058)
    gap = min(0.058, 1 / (len(ends) - 1))
    assert np.diff(np.sort(heights)).min() >= gap - 1e-9
    assert heights.min() >= -1e-9
    assert heights.max() <= 1 + 1e-9
    order = np.argsort(ends, kind="stable")
    assert (np.diff(heights[order]) > 0).all()
    assert labels.place([0.2, 0.6], 0.058) == pytest.approx([0.2, 0.6])  # nothing moves without need
    assert labels.place([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])  # and no more than needed


def test_every_line_has_a_name_that_leads_to_its_end_and_hides_no_other():
    x = [0.0, 1.0, 2.0]
    arms = {f"arm-{i}": arm(curves("loss / flops", x, [3, 2, 1 + 0.01 * i], [3, 2, 1 + 0.011 * i])) for i in range(9)}
    arms["short"] = arm(curves("loss / flops", [0.0, 0.5], [3, 2.5], [3, 2.6]))
    arms["point"] = arm(curves("loss / flops", [0.2], [2.5], [2.6]))
    arms["elsewhere"] = arm(curves("other / flops", x, [1, 1, 1]))
    figure = plots.paint(Plot(title="T", kind="curve", curve="loss / flops"), record_of(arms))
    names = {t.get_text(): t for t in figure.axes[0].texts}
    assert set(names) == set(arms) - {"elsewhere"}
    assert names["arm-3"].xy == pytest.approx((2.0, 1.0315))
    assert names["point"].xy == pytest.approx((0.2, 2.55))
    extents = {name: letters(text) for name, text in names.items()}
    for (one, a), (other, b) in itertools.combinations(extents.items(), 2):
        assert not a.overlaps(b), (one, other)
    lines = figure.axes[0].lines
    assert any(len(line.get_xdata()) == 1 and line.get_marker() == "o" for line in lines)  # a single point is seen


def letters(text):
    """The box of an annotation's words alone, without its line."""
    from matplotlib.text import Text

    box = Text.get_window_extent(text)
    return box.padded(-0.15 * box.height)  # the letters are lower than their line


def test_a_name_inside_the_frame_is_not_struck_through():
    arms = {"short": arm(curves("loss / step", [0, 100], [2, 1])), "long": arm(curves("loss / step", [0, 400], [2, 1.01]))}
    axes = plots.paint(Plot(title="T", kind="curve", curve="loss / step"), record_of(arms)).axes[0]
    backed = {text.get_text(): text.get_bbox_patch() is not None for text in axes.texts}
    assert backed == {"short": True, "long": False}


def test_whole_numbers_on_an_axis_have_whole_ticks():
    figure = plots.paint(
        Plot(title="T", kind="curve", curve="hallucinated / generation"),
        record_of({"a": arm(curves("hallucinated / generation", [1, 2, 3], [0.1, 0.2, 0.3], [0.1, 0.3, 0.4]))}),
    )
    assert [t.get_text() for t in ticks(figure.axes[0].xaxis)] == ["1", "2", "3"]


def test_large_numbers_on_an_axis_are_written_out_with_their_letter_explained():
    x = np.linspace(0, 1.6e11, 5)
    figure = plots.paint(
        Plot(title="T", kind="curve", curve="loss / flops"), record_of({"a": arm(curves("loss / flops", x, 3 - x / 1e11, 3.1 - x / 1e11))})
    )
    axis = figure.axes[0].xaxis
    assert axis.label.get_text() == "FLOPs (G: 10⁹)"
    assert axis.get_offset_text().get_text() == ""
    assert [t.get_text() for t in ticks(axis)] == ["0", "20G", "40G", "60G", "80G", "100G", "120G", "140G", "160G"]


def test_the_band_of_a_share_ends_at_0_and_1():
    steep = curves("accuracy / step", [0, 1, 2], [0.0, 0.9, 1.0], [0.3, 0.2, 0.9], [0.0, 1.0, 0.7])
    figure = plots.paint(Plot(title="T", kind="curve", curve="accuracy / step"), record_of({"a": arm(steep)}))
    heights = np.concatenate([path.vertices[:, 1] for band in figure.axes[0].collections for path in band.get_paths()])
    assert (heights.min(), heights.max()) == (0.0, 1.0)
    assert "cut at 0 and 1" in " ".join(t.get_text() for t in figure.texts)
    low_loss = {"loss / step": steep["accuracy / step"]}
    figure = plots.paint(Plot(title="T", kind="curve", curve="loss / step"), record_of({"a": arm(low_loss)}))
    assert max(path.vertices[:, 1].max() for band in figure.axes[0].collections for path in band.get_paths()) > 1
    figure = plots.paint(Plot(title="T", kind="curve", curve="loss / step", limits=(0, np.inf)), record_of({"a": arm(low_loss)}))
    assert min(path.vertices[:, 1].min() for band in figure.axes[0].collections for path in band.get_paths()) == 0
    figure = plots.paint(Plot(title="T", kind="bars", metric="accuracy"), record_of({"a": arm(metrics={"accuracy": [0.5, 1.0, 1.0]})}))
    assert max(line.get_xdata()[-1] for line in figure.axes[0].lines) == 1.0


@pytest.mark.parametrize(
    ("metric", "values", "lowest"),
    [
        ("decoded tokens per second", [100.0, 500.0, 120.0], 0.0),
        ("gain", [100.0, 500.0, 120.0], -319.90),  # may be negative for all that is known: 240 - 4.303 x 225.39 / sqrt(3)
        ("tokens saved", [-1.0, 500.0, 120.0], -443.07),
    ],
)
def test_the_interval_of_a_size_ends_at_0(metric, values, lowest):
    figure = plots.paint(Plot(title="T", kind="bars", metric=metric), record_of({"a": arm(metrics={metric: values})}))
    axes, said = figure.axes[0], " ".join(t.get_text() for t in figure.texts)
    assert min(min(line.get_xdata()) for line in axes.lines) == pytest.approx(lowest, abs=0.01)
    assert ("(cut at 0)" in said) == (lowest == 0)
    assert (axes.get_xlim()[0] > -20) == (lowest == 0)


def test_a_share_of_tokens_is_no_count_of_them():
    filled = curves("tokens, 4x / step", [0, 1, 2], [0.0, 0.9, 1.0], [0.3, 0.2, 0.9], [0.0, 1.0, 0.7])
    figure = plots.paint(Plot(title="T", kind="curve", curve="tokens, 4x / step"), record_of({"a": arm(filled)}))
    assert max(path.vertices[:, 1].max() for band in figure.axes[0].collections for path in band.get_paths()) == 1.0
    assert "cut at 0 and 1" in " ".join(t.get_text() for t in figure.texts)


def test_lines_that_are_equal_both_show_and_are_said_to_be():
    one, other = curves("loss / step", [0, 1, 2], [3, 2, 1]), curves("loss / step", [0, 1, 2], [3, 2, 2])
    figure = plots.paint(Plot(title="T", kind="curve", curve="loss / step"), record_of({"a": arm(one), "b": arm(other), "c": arm(one)}))
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "-", "--"]
    said = " ".join(t.get_text() for t in figure.texts)
    assert "'c' is 'a', value for value" in said
    assert "'b'" not in said


def test_no_grid_runs_through_what_is_written_in_an_image():
    def cells(axes, record):
        axes.imshow(np.eye(3))

    figure = plots.paint(Plot(title="T", kind="custom", draw=cells), record_of({"a": arm()}))
    assert not any(line.get_visible() for line in figure.axes[0].get_xgridlines() + figure.axes[0].get_ygridlines())


def test_square_panels_fill_the_width():
    def two_by_three(axes, record):
        axes.set_axis_off()
        for i in range(6):
            axes.inset_axes((i % 3 / 3, i // 3 / 2, 0.3, 0.4)).set_aspect("equal")

    figure = plots.paint(Plot(title="T", kind="custom", draw=two_by_three), record_of({"a": arm()}))
    boxes = [panel.get_window_extent() for panel in figure.axes[0].child_axes]
    assert sum(box.width for box in boxes[:3]) > 0.8 * figure.bbox.width
    assert all(box.width == pytest.approx(box.height, rel=0.02) for box in boxes)


@pytest.mark.parametrize("over", ["flops", "updates", "steps"])
def test_a_beginning_that_would_take_the_height_is_left_out_and_said(over):
    x = np.linspace(0, 1, 21)
    y = np.where(x == 0, 5.5, 2.2 - 0.2 * x)
    record = record_of({"a": arm(curves(f"loss / {over}", x, y, y + 0.01, y - 0.01))})
    figure = plots.paint(Plot(title="T", kind="curve", curve=f"loss / {over}"), record)
    assert figure.axes[0].get_ylim()[1] < 2.5
    assert "begins at 5.5, outside the frame" in " ".join(t.get_text() for t in figure.texts)
    roc = record_of({"a": arm(curves("found / removed", x, y, y + 0.01, y - 0.01))})  # nothing that training spends: its start counts
    figure = plots.paint(Plot(title="T", kind="curve", curve="found / removed"), roc)
    assert figure.axes[0].get_ylim()[1] > 5
    straight = record_of({"a": arm(curves("loss / flops", x, 5 - x, 5.1 - x))})
    figure = plots.paint(Plot(title="T", kind="curve", curve="loss / flops"), straight)
    assert figure.axes[0].get_ylim()[1] > 5
    assert "frame" not in " ".join(t.get_text() for t in figure.texts)


def test_arms_look_different_however_many_there_are():
    arms = {f"arm-{i}": arm(curves("loss / flops", [0, 1], [2, 1])) for i in range(3 * len(plots.COLORS) - 3)}
    arms["own"] = arm(curves("loss / flops", [0, 1], [2, 1]), color=plots.COLORS[0])
    figure = plots.paint(Plot(title="T", kind="curve", curve="loss / flops"), record_of(arms))
    looks = {(line.get_color(), str(line.get_linestyle()), str(line._dash_pattern)) for line in figure.axes[0].lines}
    assert len(looks) == len(arms)
    assert [line.get_color() for line in figure.axes[0].lines].count(plots.COLORS[0]) == 1


def test_a_title_that_says_equal_is_held_against_the_ledgers():
    def title(flops, **more):
        arms = {
            f"a{i}": arm(metrics={"loss": [1, 2, 3]}, ledger=[{"train": {"flops": f}, "prepare": {"flops": 1.0}}] * 3, reference=i == 2)
            for i, f in enumerate(flops)
        }
        figure = plots.paint(Plot(title="Loss at equal FLOPs", kind="bars", metric="loss"), record_of(arms, **more))
        return " ".join(t.get_text() for t in figure.texts)

    assert title([100, 103, 500]).startswith("Loss at equal FLOPs toy")  # a reference arm is outside the budget
    assert title([109, 100]).startswith("Loss at unequal FLOPs (up to 9 % apart) toy")
    assert "smoke: shows that everything runs" in title([100, 100], scale="smoke")


def test_redrawing_takes_the_record_and_leaves_what_is_not_its_own(tiny, tmp_path):
    record = run_study(tiny(), out=tmp_path / "out", place=Place(tmp_path / "none"), quiet=True, workers=1)
    place = Place(tmp_path / "evidence")
    with pytest.raises(BadInput, match=r"records.tiny\.json"):
        plots.redraw(tiny().study(), place)
    records.write(place.record("tiny"), record)
    place.plots("tiny").mkdir(parents=True)
    old = place.plots("tiny") / "old.png"
    old.write_bytes(b"old")
    drawn, left = plots.redraw(tiny().study(), place)
    assert [file.name for file in drawn] == ["loss-over-flops.png", "final-loss.png"]
    assert left == [old]
    made = tmp_path / "out" / "quick" / "plots"
    assert all(file.read_bytes() == (made / file.name).read_bytes() for file in drawn)
    assert all(file.stat().st_size < 60_000 for file in drawn)


def test_seeds_without_a_shared_place_are_drawn_each_for_itself():
    apart = {"solved / cost": [[[1.0, 2.0], [0.1, 0.2]], [[5.0], [0.4]]]}
    record = record_of({"search": arm(apart)}, seeds=[0, 1])
    figure = plots.paint(Plot(title="Solved", kind="curve", curve="solved / cost"), record)
    assert [line.get_xdata().tolist() for line in figure.axes[0].lines] == [[1.0, 2.0], [5.0]]
    assert_inside(figure)
