"""BandSplit against PyWavelets, and the properties the rest of the package relies on."""

import contextlib
import pickle
from itertools import product
from pathlib import Path

import nbformat
import numpy as np
import pytest
import pywt
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.func import grad, hessian, jvp, vmap

from ppfer.base.errors import PpferError
from ppfer.wavelets import NAMES, BandSplit, analysis_matrix, layer, low_pass, synthesis_matrix

WAVELETS = pywt.wavelist(kind="discrete")
pytestmark = pytest.mark.filterwarnings("ignore:Level value")  # PyWavelets', of tiny frames

few = settings(max_examples=30, deadline=None, derandomize=True)
lengths, forms = st.integers(5, 26), st.sampled_from(["subband", "image"])
wavelets, modes = st.sampled_from(WAVELETS), st.sampled_from(pywt.Modes.modes)
axes = st.sampled_from(["hw", "t", "thw"])
options = st.fixed_dictionaries(
    {"wavelet": wavelets, "mode": modes, "level": st.integers(1, 2), "axes": axes}
)
both_forms = pytest.mark.parametrize("form", ["subband", "image"])


def clips(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.fixture(params=["as on a CPU", "as on a GPU"])
def device(request, monkeypatch):
    """Matrices in tiles and Haar's sums, or whole matrices."""
    monkeypatch.setattr(layer, "CUT", ("cpu",) if request.param == "as on a CPU" else ())
    layer._made_plan.cache_clear()
    yield
    layer._made_plan.cache_clear()


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
        details = [d for level in levels for d in level]  # horizontal, vertical, diagonal
    else:
        axes = (1,) if kwargs["axes"] == "t" else (1, 3, 4)
        approximation, *levels = pywt.wavedecn(x.numpy(), axes=axes, **how)
        details = [level[key] for level in levels for key in NAMES[kwargs["axes"]]]
    for name, theirs in zip(bands.names, [approximation, *details], strict=True):
        mine, atol = got[name].unflatten(0, (2, -1)).numpy(), 1e-10 * max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("wavelet", ["haar", "db4", "bior4.4"])
@pytest.mark.parametrize("mode", ["symmetric", "periodization", "antireflect"])
@pytest.mark.parametrize("size", [(224, 97), (96, 64)])  # matrices in several tiles; Haar's sums
def test_single_precision_is_exact_to_one_in_a_million(wavelet, mode, size, device):
    x = clips(2, 3, *size, dtype=torch.float32)
    bands = BandSplit(wavelet, mode=mode)
    low, high = bands.split(x)
    approximation, details = pywt.dwt2(x.double().numpy(), wavelet, mode)
    got = bands.coefficients(low, high, like=x).values()
    for mine, theirs in zip(got, [approximation, *details], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6 * np.abs(approximation).max())
    torch.testing.assert_close(bands.merge(low, high, like=x), x, rtol=0, atol=2e-6)


@few
@given(options, forms)
def test_bands_fill_the_unit_range_and_never_leave_it(kwargs, form):
    """Extremes over [0, 1]^n: an offset plus a row's negative, or positive, entries."""
    assume(pywt.Wavelet(kwargs["wavelet"]).dec_len <= 12)  # longer ones: many coefficients
    bands, n = BandSplit(form=form, **kwargs), 3 * 5 * 4
    x = torch.zeros(n + 1, 3, 3, 5, 4, dtype=torch.float64)
    x[:n, :, 0] = torch.eye(n).view(n, 3, 5, 4)  # every red pixel on its own, then a black clip
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


@both_forms
@pytest.mark.parametrize("mode", pywt.Modes.modes)
def test_single_precision_leaves_the_unit_range_by_rounding_alone(mode, form):
    """Short axes, deep levels and long wavelets: entries are millions of times what comes out."""
    noise = clips(2, 3, 2, 5, dtype=torch.float32)
    x = torch.cat([noise, noise.round(), torch.zeros_like(noise), torch.ones_like(noise)])
    families = "haar db2 db8 db38 sym5 coif17 bior6.8 rbio3.1 dmey".split()
    for wavelet, level in product(families, (1, 2, 3)):
        with contextlib.suppress(PpferError):  # two pixels cannot be reflected twice
            both = torch.cat([y.flatten() for y in BandSplit(wavelet, level, mode, form).split(x)])
            assert both.min() > -1e-6 and both.max() < 1 + 1e-6, f"{wavelet}, level {level}"


@few
@given(options, lengths, lengths)
def test_image_form_is_the_inverse_transform_of_the_approximation(kwargs, h, w):
    bands, x = BandSplit(form="image", **kwargs), clips(1, 6, 3, h, w)
    got = bands.coefficients(*bands.split(x), like=x)
    assert tuple(got) == bands.names == ("approximation", "detail")
    both = (got["approximation"] + got["detail"]).view_as(x)
    torch.testing.assert_close(both, x, rtol=0, atol=1e-10)
    if kwargs["wavelet"] != "dmey":  # PyWavelets' own inverse is inexact for it, ours is not
        axes = {"hw": (3, 4), "t": (1,), "thw": (1, 3, 4)}[kwargs["axes"]]
        how = {"wavelet": kwargs["wavelet"], "mode": kwargs["mode"], "axes": axes}
        approximation, *details = pywt.wavedecn(x.numpy(), level=kwargs["level"], **how)
        zeros = [{k: np.zeros_like(v) for k, v in level.items()} for level in details]
        low = pywt.waverecn([approximation, *zeros], **how)[:, :6, :, :h, :w]
        mine, atol = got["approximation"].view_as(x).numpy(), 1e-9 * max(1.0, np.abs(low).max())
        np.testing.assert_allclose(mine, low, rtol=0, atol=atol)


@pytest.mark.parametrize(("wavelet", "level"), [("haar", 1), ("db2", 2)])
@pytest.mark.parametrize("axes", ["hw", "thw"])
@both_forms
def test_gradients(wavelet, level, axes, form, device):
    bands, x = BandSplit(wavelet, level, axes=axes, form=form), clips(1, 2, 3, 4, 6)
    low, high = bands.split(x)
    pair = low.clone().requires_grad_(), high.clone().requires_grad_()
    x.requires_grad_()
    assert torch.autograd.gradcheck(bands.split, x, fast_mode=True)
    assert torch.autograd.gradcheck(lambda a, b: bands.merge(a, b, like=x), pair, fast_mode=True)

    def energy(x):
        return torch.cat([band.flatten() for band in bands.split(x)]).pow(3).sum()

    assert torch.autograd.gradgradcheck(energy, x, fast_mode=True)


@pytest.mark.parametrize(("wavelet", "level"), [("haar", 1), ("db4", 2)])
@pytest.mark.parametrize("axes", ["hw", "thw"])
@both_forms
def test_per_sample_and_directional_gradients(wavelet, level, axes, form, device):
    """By `torch.func`, for differentially private training; the matrices are made inside of it."""
    bands, x = BandSplit(wavelet, level, axes=axes, form=form), clips(3, 4, 3, 6, 8)
    weight, ahead = clips(2, 4, 3, 6, 8, seed=1)

    def loss(weight, clip):
        low, high = bands.split(weight * clip[None])
        return bands.merge(low.square(), high.sin(), like=clip[None]).square().sum()

    scale = torch.ones((), dtype=torch.float64)
    assert hessian(lambda s: loss(s * weight, x[0]))(scale).isfinite()
    each = vmap(grad(loss), (None, 0))(weight, x)
    weight.requires_grad_()
    for clip, mine in zip(x, each, strict=True):
        torch.testing.assert_close(mine, torch.autograd.grad(loss(weight, clip), weight)[0])
    weight.requires_grad_(False)
    _, slope = jvp(lambda w: loss(w, x[0]), (weight,), (ahead,))
    ends = [loss(weight + step * ahead, x[0]) for step in (1e-5, -1e-5)]
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=0)


@few
@given(wavelets, modes, st.integers(1, 3), st.integers(9, 40))
def test_matrices_are_the_transform(wavelet, mode, level, n):
    a, s = analysis_matrix(n, wavelet, level, mode), synthesis_matrix(n, wavelet, level, mode)
    p, x = low_pass(n, wavelet, level, mode).numpy(), clips(n).numpy()
    coefficients = pywt.wavedec(x, wavelet, mode, level)
    together = np.concatenate(coefficients)
    np.testing.assert_allclose(a.numpy() @ x, together, rtol=0, atol=1e-9)
    torch.testing.assert_close(s @ a, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-9)
    if wavelet != "dmey":
        back = pywt.waverec(coefficients, wavelet, mode)[:n]
        np.testing.assert_allclose(s.numpy() @ together, back, rtol=0, atol=1e-9)
        without = [coefficients[0], *(np.zeros_like(c) for c in coefficients[1:])]
        kept = pywt.waverec(without, wavelet, mode)[:n]
        np.testing.assert_allclose(p @ x, kept, rtol=0, atol=1e-9 * max(1, np.abs(kept).max()))


def test_details_answer_to_their_edges_and_are_folded_frame_by_frame():
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


def test_equal_pixels_are_exactly_grey_and_a_still_clip_has_no_temporal_detail(device):
    frames = clips(5, 3, 1, 1, dtype=torch.float32).expand(5, 3, 15, 18)
    assert BandSplit().split(frames)[1].eq(0.5).all()
    still, bands = clips(1, 1, 3, 8, 8).expand(1, 4, 3, 8, 8), BandSplit(axes="thw")
    for name, band in bands.details(bands.split(still)[1], like=still).items():
        assert torch.allclose(band, torch.full_like(band, 0.5)) == ("temporal" in name)


@pytest.mark.parametrize(
    "kwargs", [{"level": 2}, {"axes": "t"}, {"axes": "thw", "wavelet": "db2", "level": 2}]
)
def test_details_are_the_coefficients_in_grey(kwargs):
    bands, x = BandSplit(**kwargs), clips(2, 8, 3, 12, 10)
    low, high = bands.split(x)
    details, signed = bands.details(high, like=x), bands.coefficients(low, high, like=x)
    assert tuple(details) == bands.names[1:]
    for name, grey in details.items():
        bound = (signed[name].abs().sum() / (2 * grey - 1).abs().sum()).item()  # of a coefficient
        torch.testing.assert_close((2 * grey - 1) * bound, signed[name], rtol=0, atol=1e-9)


def test_shapes_without_and_with_like():
    x, bands = clips(2, 3, 11, 12), BandSplit("db3")
    assert bands.merge(*bands.split(x)).shape == (2, 3, 12, 12)  # 11 and 12 have bands of one size
    assert bands.merge(*bands.split(x), like=x).shape == x.shape
    assert bands.merge(*bands.split(x), like=x.shape).shape == x.shape
    assert bands.merge(*(band + 0.5 for band in bands.split(x))).max() > 1.2  # not clamped
    v = clips(2, 5, 3, 6, 6)
    assert BandSplit().merge(*BandSplit().split(v)).shape == (10, 3, 6, 6)
    assert BandSplit().merge(*BandSplit().split(v), like=v).shape == v.shape
    assert [len(band) for band in BandSplit().split(x[:0])] == [0, 0]
    for wavelet, mode in product(WAVELETS, ("symmetric", "periodization")):
        bands, x = BandSplit(wavelet, mode=mode), clips(1, 3, 6, 30)
        torch.testing.assert_close(bands.merge(*bands.split(x)), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@both_forms
def test_what_inference_caches_training_can_use(dtype, form):
    x, bands = clips(2, 3, 31, 17, dtype=dtype), BandSplit("coif3", form=form)  # as no other test
    with torch.inference_mode():
        bands.split(x)
    low, high = bands.split(x.requires_grad_())
    bands.merge(low, high, like=x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x), rtol=0, atol=1e-4)


def test_it_is_stateless_and_keeps_its_precision(device):
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


@pytest.mark.parametrize(
    ("wavelet", "axes", "level"), [("haar", "hw", 1), ("db2", "hw", 2), ("haar", "thw", 2)]
)
def test_it_compiles_to_one_graph_per_size(wavelet, axes, level, device):
    bands = BandSplit(wavelet, level, axes=axes)

    def loss(x):
        low, high = bands.split(x)
        return bands.merge(low.square(), high.square(), like=x).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for size in (16, 24):
        x = clips(2, 4, 3, size, size).requires_grad_()
        torch.testing.assert_close(*(torch.autograd.grad(f(x), x)[0] for f in (loss, compiled)))


def test_the_notebook_teaches_the_same_haar():
    path = Path(__file__).parents[1] / "notebooks" / "01_wavelets.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    taught = {"torch": torch}
    for cell in (c for c in cells if "haar-by-hand" in c.metadata.get("tags", [])):
        exec(cell.source, taught)
    x = clips(2, 3, 10, 8)
    mine, ours = taught["haar_split"](x), BandSplit().coefficients(*BandSplit().split(x)).values()
    for a, b in zip(mine, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    torch.testing.assert_close(taught["haar_merge"](*mine), x, rtol=0, atol=1e-12)


def merged(low, high, **options):
    return BandSplit(**options).merge(torch.zeros(low, 3, 4, 4), torch.zeros(high, 3, 4, 4))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BandSplit("morl"), "unknown discrete wavelet 'morl'; known: bior1.1"),
        (lambda: BandSplit(mode="mirror"), "unknown boundary mode 'mirror'; known: zero"),
        (lambda: BandSplit(level=0), "at least 1, not 0"),
        (lambda: BandSplit(form="picture"), "known: subband, image"),
        (lambda: BandSplit(axes="wh"), "known: hw, t, thw"),
        (lambda: BandSplit().split(clips(1, 3, 4, 4).byte()), "divide uint8 frames by 255"),
        (lambda: BandSplit().split(clips(1, 1, 4, 4)), r"takes frames \(N, 3, H, W\)"),
        (lambda: BandSplit(axes="t").split(clips(1, 3, 4, 4)), r"takes clips \(B, T, 3, H, W\)"),
        (lambda: BandSplit("db2", mode="reflect").split(clips(1, 3, 1, 8)), "cannot be split"),
        (lambda: merged(1, 2), r"have bands \[\(1, 3, 4, 4\), \(3, 3, 4, 4\)\], not"),
        (lambda: merged(2, 6, wavelet="db8"), "as `like`"),
        (lambda: merged(2, 2, axes="t"), "bands over time or of several levels need their frames"),
        (lambda: merged(2, 6, level=2), "bands over time or of several levels need their frames"),
    ],
)
def test_errors_are_sentences(make, words):
    with pytest.raises(PpferError, match=words):
        make()


def test_a_level_too_deep_warns_and_still_reconstructs():
    x, bands = clips(1, 3, 19, 19), BandSplit("db5", level=4, mode="periodic")  # as no other test
    with pytest.warns(UserWarning, match="Level value of 4 is too high"):
        back = bands.merge(*bands.split(x), like=x)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-8)
