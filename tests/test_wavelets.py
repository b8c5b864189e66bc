"""BandSplit against PyWavelets, and the properties the rest of the package relies on."""

import pickle
import warnings
from pathlib import Path

import nbformat
import numpy as np
import pytest
import pywt
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ppfer import banded, wavelets
from ppfer.base.errors import PpferError
from ppfer.wavelets import NAMES, BandSplit, analysis_matrix, low_pass, row_slices, synthesis_matrix

WAVELETS = pywt.wavelist(kind="discrete")
pytestmark = pytest.mark.filterwarnings(
    "ignore:level"
)  # tiny frames: pywt's and our own words on deep levels

few = settings(max_examples=60, deadline=None, derandomize=True)
lengths = st.integers(5, 26)
options = st.fixed_dictionaries(
    {
        "wavelet": st.sampled_from(WAVELETS),
        "mode": st.sampled_from(pywt.Modes.modes),
        "level": st.integers(1, 2),
        "axes": st.sampled_from(["hw", "t", "thw"]),
    }
)
forms = st.sampled_from(["subband", "image"])


def clips(*shape, seed=0, dtype=torch.float64):
    return torch.rand(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


@few
@given(options, forms, lengths, lengths, lengths)
def test_merge_undoes_split(kwargs, form, t, h, w):
    bands, x = BandSplit(form=form, **kwargs), clips(2, t, 3, h, w)
    low, high = bands.split(x)
    assert low.shape[1] == high.shape[1] == 3
    torch.testing.assert_close(bands.merge(low, high, like=x), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("axes", ["hw", "thw"])
def test_every_wavelet_reconstructs_in_single_precision(axes):
    x = clips(1, 6, 3, 21, 32, dtype=torch.float32)
    for wavelet in WAVELETS:
        bands = BandSplit(wavelet, axes=axes)
        error = (bands.merge(*bands.split(x), like=x) - x).abs().max().item()
        assert error < 1e-5, f"{wavelet}: {error}"  # long filters of large gain amplify rounding


@few
@given(options, lengths, lengths, lengths)
def test_sub_bands_are_pywavelets(kwargs, t, h, w):
    bands, x = BandSplit(**kwargs), clips(2, t, 3, h, w)
    got = bands.coefficients(*bands.split(x), like=x)
    assert tuple(got) == bands.names
    how = {"wavelet": kwargs["wavelet"], "mode": kwargs["mode"], "level": kwargs["level"]}
    if kwargs["axes"] == "hw":
        approximation, *levels = pywt.wavedec2(x.numpy(), axes=(-2, -1), **how)
        details = [
            d for level in levels for d in level
        ]  # horizontal, vertical, diagonal; coarsest first
    else:
        axes = (1,) if kwargs["axes"] == "t" else (1, 3, 4)
        approximation, *levels = pywt.wavedecn(x.numpy(), axes=axes, **how)
        details = [level[key] for level in levels for key in NAMES[kwargs["axes"]]]
    for name, mine, theirs in zip(
        bands.names, got.values(), [approximation, *details], strict=True
    ):
        scale = max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(
            mine.unflatten(0, (2, -1)).numpy(), theirs, rtol=0, atol=1e-10 * scale, err_msg=name
        )


@pytest.mark.parametrize("wavelet", ["haar", "db4", "bior4.4"])
@pytest.mark.parametrize("mode", ["symmetric", "periodization", "antireflect"])
def test_single_precision_is_exact_to_one_in_a_million(wavelet, mode):
    x = clips(2, 3, 224, 97, dtype=torch.float32)  # long enough for matrices in several tiles
    bands = BandSplit(wavelet, mode=mode)
    low, high = bands.split(x)
    approximation, details = pywt.dwt2(x.double().numpy(), wavelet, mode)
    for mine, theirs in zip(
        bands.coefficients(low, high, like=x).values(), [approximation, *details]
    ):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6 * np.abs(approximation).max())
    torch.testing.assert_close(bands.merge(low, high, like=x), x, rtol=0, atol=2e-6)


@few
@given(options, forms)
def test_bands_fill_the_unit_range_and_never_leave_it(kwargs, form):
    """The extremes of an affine map over [0, 1]^n: its offset plus the negative, or positive,
    entries of each row.
    """
    assume(
        pywt.Wavelet(kwargs["wavelet"]).dec_len <= 12
    )  # longer filters make many coefficients of few pixels
    bands, n = BandSplit(form=form, **kwargs), 3 * 5 * 4
    x = torch.zeros(n + 1, 3, 3, 5, 4, dtype=torch.float64)
    x[:n, :, 0] = torch.eye(n, dtype=torch.float64).view(
        n, 3, 5, 4
    )  # every red pixel on its own, then a black clip
    for i, band in enumerate(bands.split(x)):
        *columns, offset = band[:, 0].unflatten(0, (n + 1, -1)).flatten(1)
        entries = torch.stack(columns) - offset
        least, most = offset + entries.clamp(max=0).sum(0), offset + entries.clamp(min=0).sum(0)
        assert least.min() > -1e-9 and most.max() < 1 + 1e-9
        if i == 0:
            assert least.min() < 1e-9 and most.max() > 1 - 1e-9
        else:  # symmetric: zero detail is grey, and one side reaches the end
            torch.testing.assert_close(offset, torch.full_like(offset, 0.5), rtol=0, atol=1e-9)
            assert min(least.min(), 1 - most.max()) < 1e-9 or not entries.any()


@few
@given(options, lengths, lengths)
def test_image_form_is_the_inverse_transform_of_the_approximation(kwargs, h, w):
    bands, x = BandSplit(form="image", **kwargs), clips(1, 6, 3, h, w)
    got = bands.coefficients(*bands.split(x), like=x)
    assert tuple(got) == bands.names == ("approximation", "detail")
    torch.testing.assert_close(
        (got["approximation"] + got["detail"]).view_as(x), x, rtol=0, atol=1e-10
    )
    if kwargs["wavelet"] != "dmey":  # PyWavelets' own inverse is inexact for it, ours is not
        axes = {"hw": (3, 4), "t": (1,), "thw": (1, 3, 4)}[kwargs["axes"]]
        how = {"wavelet": kwargs["wavelet"], "mode": kwargs["mode"], "axes": axes}
        approximation, *details = pywt.wavedecn(x.numpy(), level=kwargs["level"], **how)
        zeros = [{k: np.zeros_like(v) for k, v in level.items()} for level in details]
        low = pywt.waverecn([approximation, *zeros], **how)[:, :6, :, :h, :w]
        scale = max(1.0, np.abs(low).max())
        np.testing.assert_allclose(
            got["approximation"].view_as(x).numpy(), low, rtol=0, atol=1e-9 * scale
        )


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
@pytest.mark.parametrize("axes", ["hw", "thw"])
@pytest.mark.parametrize("form", ["subband", "image"])
def test_gradients(wavelet, axes, form):
    bands, x = BandSplit(wavelet, axes=axes, form=form), clips(1, 2, 3, 4, 5)
    low, high = bands.split(x)
    assert torch.autograd.gradcheck(bands.split, x.requires_grad_(), fast_mode=True)
    pair = low.detach().requires_grad_(), high.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: bands.merge(a, b, like=x), pair, fast_mode=True)


@few
@given(
    st.sampled_from(WAVELETS),
    st.sampled_from(pywt.Modes.modes),
    st.integers(1, 3),
    st.integers(9, 40),
)
def test_matrices_are_the_transform(wavelet, mode, level, n):
    a, s = analysis_matrix(n, wavelet, level, mode), synthesis_matrix(n, wavelet, level, mode)
    x = clips(n).numpy()
    coefficients = pywt.wavedec(x, wavelet, mode, level)
    for rows, theirs in zip(row_slices(n, wavelet, level, mode), coefficients, strict=True):
        np.testing.assert_allclose(a[rows].numpy() @ x, theirs, rtol=0, atol=1e-9)
    torch.testing.assert_close(s @ a, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-9)
    if wavelet != "dmey":
        back = pywt.waverec(coefficients, wavelet, mode)[:n]
        np.testing.assert_allclose(
            s.numpy() @ np.concatenate(coefficients), back, rtol=0, atol=1e-9
        )


def test_horizontal_answers_to_horizontal_edges_and_high_is_folded_frame_by_frame():
    stripes = torch.zeros(2, 3, 8, 8)
    stripes[0, :, ::2] = 1  # every other row is white: only edges that lie horizontally
    stripes[1, :, :, ::2] = 1
    low, high = BandSplit().split(stripes)
    assert low.shape == (2, 3, 4, 4) and high.shape == (6, 3, 4, 4)
    per_frame = high.view(2, 3, 3, 4, 4)  # (frame, sub-band, colour, height, width)
    details = BandSplit().details(high)
    assert list(details) == ["horizontal", "vertical", "diagonal"]
    for i, band in enumerate(details.values()):
        assert torch.equal(band, per_frame[:, i])
    assert details["horizontal"][0].eq(1).all() and details["vertical"][0].eq(0.5).all()
    assert details["vertical"][1].eq(1).all() and details["horizontal"][1].eq(0.5).all()
    assert details["diagonal"].eq(0.5).all() and low.eq(0.5).all()


@pytest.mark.parametrize(
    "kwargs", [{"level": 2}, {"axes": "t"}, {"axes": "thw", "wavelet": "db2", "level": 2}]
)
def test_details_are_the_coefficients_in_grey(kwargs):
    bands, x = BandSplit(**kwargs), clips(2, 8, 3, 12, 10)
    low, high = bands.split(x)
    details, signed = bands.details(high, like=x), bands.coefficients(low, high, like=x)
    assert tuple(details) == bands.names[1:]
    for name, grey in details.items():
        bound = (
            signed[name].abs().sum() / (2 * grey - 1).abs().sum()
        ).item()  # the greatest this coefficient can be
        torch.testing.assert_close((2 * grey - 1) * bound, signed[name], rtol=0, atol=1e-9)


def test_time_details_vanish_on_a_still_clip():
    still = clips(1, 1, 3, 8, 8).expand(1, 4, 3, 8, 8)
    bands = BandSplit(axes="thw")
    for name, band in bands.details(bands.split(still)[1], like=still).items():
        assert torch.allclose(band, torch.full_like(band, 0.5)) == ("temporal" in name)


def test_shapes_without_and_with_like():
    x = clips(2, 3, 11, 12)
    bands = BandSplit("db3", level=2)
    assert bands.merge(*bands.split(x)).shape == (
        2,
        3,
        12,
        12,
    )  # 11 and 12 have bands of one size: even is assumed
    assert bands.merge(*bands.split(x), like=x).shape == x.shape
    assert bands.merge(*bands.split(x), like=x.shape).shape == x.shape
    v = clips(2, 5, 3, 6, 6)
    assert BandSplit().merge(*BandSplit().split(v)).shape == (10, 3, 6, 6)
    assert BandSplit().merge(*BandSplit().split(v), like=v).shape == v.shape
    assert [len(b) for b in BandSplit().split(x[:0])] == [0, 0]


def test_merge_of_changed_bands_is_not_clamped():
    low, high = BandSplit().split(torch.ones(1, 3, 4, 4))
    assert BandSplit().merge(low, high + 0.5).max() > 1.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", ["subband", "image"])
def test_what_inference_caches_training_can_use(dtype, form):
    x, bands = (
        clips(2, 3, 31, 17, dtype=dtype),
        BandSplit("coif3", form=form),
    )  # options no other test uses
    with torch.inference_mode():
        bands.split(x)
    low, high = bands.split(x.requires_grad_())
    bands.merge(low, high, like=x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x), rtol=0, atol=1e-4)


def test_it_is_stateless_and_keeps_its_precision():
    x = clips(2, 3, 16, 15, dtype=torch.float32)
    bands = BandSplit("db4").half()  # e.g. inside a network that was cast
    assert not bands.state_dict() and pickle.loads(pickle.dumps(bands)).names == bands.names
    y = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        back = bands.merge(*bands.split(y), like=y)
    torch.testing.assert_close(back, y, rtol=0, atol=1e-5)
    back.sum().backward()
    torch.testing.assert_close(y.grad, torch.ones_like(y), rtol=0, atol=1e-4)
    low, high = bands.split(x.bfloat16())
    assert low.dtype == high.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), bands.split(x)[0], rtol=0, atol=2**-7)


def test_it_compiles_to_one_graph_per_size():
    bands = BandSplit("db2", level=2)
    compiled = torch.compile(
        lambda x: bands.merge(*bands.split(x)), fullgraph=True, backend="eager"
    )
    for size in (16, 24):
        x = clips(2, 3, size, size)
        torch.testing.assert_close(compiled(x), x, rtol=0, atol=1e-9)


def test_the_notebook_teaches_the_same_haar():
    cells = nbformat.read(
        Path(__file__).parents[1] / "notebooks" / "01_wavelets.ipynb", as_version=4
    ).cells
    (cell,) = (c for c in cells if "haar-by-hand" in c.metadata.get("tags", []))
    taught = {"torch": torch}
    exec(cell.source, taught)
    x = clips(2, 3, 10, 8)
    mine, ours = taught["haar_split"](x), BandSplit().coefficients(*BandSplit().split(x)).values()
    for a, b in zip(mine, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    torch.testing.assert_close(taught["haar_merge"](*mine), x, rtol=0, atol=1e-12)


def zeros(*shape):
    return torch.zeros(*shape)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BandSplit("morl"), "unknown discrete wavelet 'morl'; known: bior1.1"),
        (lambda: BandSplit(mode="mirror"), "unknown boundary mode 'mirror'; known: zero"),
        (lambda: BandSplit(level=0), "at least 1, not 0"),
        (lambda: BandSplit(form="picture"), "known: subband, image"),
        (lambda: BandSplit(axes="wh"), "known: hw, t, thw"),
        (lambda: BandSplit().split(zeros(1, 3, 4, 4).byte()), "divide uint8 frames by 255"),
        (lambda: BandSplit().split(zeros(1, 1, 4, 4)), r"takes frames \(N, 3, H, W\)"),
        (lambda: BandSplit(axes="t").split(zeros(1, 3, 4, 4)), r"takes clips \(B, T, 3, H, W\)"),
        (
            lambda: BandSplit("db2", mode="reflect").split(zeros(1, 3, 1, 8)),
            "axis of length 1 cannot be split",
        ),
        (lambda: BandSplit().merge(zeros(1, 3, 4, 4), zeros(2, 3, 4, 4)), "have bands of shape"),
        (lambda: BandSplit(axes="t").merge(zeros(2, 3, 4, 4), zeros(2, 3, 4, 4)), "need the clips"),
        (lambda: BandSplit(level=2).details(zeros(6, 3, 4, 4)), "need the frames"),
        (
            lambda: BandSplit("db4", level=2).merge(zeros(6, 3, 4, 4), zeros(6, 3, 4, 4)),
            "no frame has bands",
        ),
    ],
)
def test_errors_are_sentences(make, words):
    with pytest.raises(PpferError, match=words):
        make()


def test_a_level_too_deep_warns_and_still_reconstructs():
    x = clips(1, 3, 19, 19)
    bands = BandSplit("db5", level=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        back = bands.merge(*bands.split(x), like=x)
    assert any("level 4 of db5 is deep for an axis of length 19" in str(w.message) for w in caught)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("wavelet", "size"),
    [("haar", (16, 24)), ("haar", (15, 18)), ("db4", (32, 40)), ("bior2.2", (21, 16))],
)
def test_whole_matrices_as_on_a_gpu_give_the_same_bands_frames_and_gradients(
    wavelet, size, monkeypatch
):
    frames = torch.rand(
        3, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    made = {}
    for devices in (("cuda",), ("cuda", "cpu")):
        monkeypatch.setattr(banded, "WHOLE", devices)
        wavelets._cached_plan.cache_clear()
        bands, x = BandSplit(wavelet), frames.clone().requires_grad_()
        low, high = bands.split(x)
        back = bands.merge(low.square(), high.square(), like=x)
        made[devices] = low, high, back, *torch.autograd.grad(back.square().sum(), x)
        torch.testing.assert_close(bands.merge(low, high, like=x), x, rtol=0, atol=1e-9)
    wavelets._cached_plan.cache_clear()
    for a, b in zip(*made.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("wavelet", "axes", "level"), [("haar", "hw", 1), ("db2", "hw", 2), ("haar", "thw", 2)]
)
@pytest.mark.parametrize("whole", [(), ("cpu",)])
def test_gradients_are_the_same_when_compiled(wavelet, axes, level, whole, monkeypatch):
    monkeypatch.setattr(banded, "WHOLE", whole)
    wavelets._cached_plan.cache_clear()
    bands, x = BandSplit(wavelet, level, axes=axes), clips(2, 4, 3, 16, 16).requires_grad_()

    def loss(x):
        low, high = bands.split(x)
        return bands.merge(low.square(), high.square(), like=x).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(*(torch.autograd.grad(f(x), x)[0] for f in (loss, compiled)))
    wavelets._cached_plan.cache_clear()


@pytest.mark.parametrize("whole", [(), ("cpu",)])
def test_second_gradients(whole, monkeypatch):
    monkeypatch.setattr(banded, "WHOLE", whole)
    wavelets._cached_plan.cache_clear()
    bands, x = BandSplit("db2", level=2), clips(1, 3, 6, 5).requires_grad_()

    def energy(x):
        return torch.cat([band.flatten() for band in bands.split(x)]).pow(3).sum()

    assert torch.autograd.gradgradcheck(energy, x, fast_mode=True)
    wavelets._cached_plan.cache_clear()


@pytest.mark.parametrize("mode", ["symmetric", "zero", "periodization"])
def test_what_the_approximation_keeps_is_a_projection(mode):
    for wavelet in ("haar", "db3", "bior2.2"):
        p = low_pass(13, wavelet, 1, mode)
        low = pywt.wavedec(np.eye(13), wavelet, mode, 1, axis=0)[0]
        zeros = np.zeros_like(low)
        theirs = pywt.waverec([low, zeros], wavelet, mode, axis=0)[:13]
        np.testing.assert_allclose(p.numpy(), theirs, atol=1e-10)
