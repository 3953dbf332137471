"""Adapters: a model of another library gives the same codes and audio with our quantizer in it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from tests.unitok_kernels.helpers.oracle import normal, raises
from unitok_kernels.nn import replace_quantizers, restore_quantizers

transformers = pytest.importorskip("transformers", reason="transformers isn't installed")


def encodec():
    config = transformers.EncodecConfig(
        num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=64, num_lstm_layers=1, upsampling_ratios=[4, 4]
    )
    return transformers.EncodecModel(config)


def mimi(hidden=16):
    config = transformers.MimiConfig(
        num_filters=4,
        hidden_size=hidden,
        codebook_dim=16,
        codebook_size=64,
        vector_quantization_hidden_dimension=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=hidden // 2,
        intermediate_size=32,
        upsampling_ratios=[4, 4],
        upsample_groups=hidden,
        num_quantizers=6,
    )
    return transformers.MimiModel(config)


def dac():
    config = transformers.DacConfig(
        encoder_hidden_size=4,
        downsampling_ratios=[4, 4],
        decoder_hidden_size=16,
        upsampling_ratios=[4, 4],
        n_codebooks=4,
        codebook_size=64,
        codebook_dim=4,
    )
    return transformers.DacModel(config)


MODELS = {"encodec": encodec, "mimi": mimi, "mimi, projected": lambda: mimi(24), "dac": dac}


def model(name):
    """A small model with random weights; its codebooks have the spread of what they get."""
    torch.manual_seed(0)
    made = MODELS[name]().eval()
    for key, value in made.named_buffers():
        if key.endswith(("embed", "embed_sum")):
            value.copy_(0.1 * torch.randn_like(value))
    return made


def codes_and_audio(made, audio, **call):
    with torch.no_grad():
        encoded = made.encode(audio, **call)
        codes = encoded.audio_codes
        if isinstance(made, transformers.EncodecModel):
            return codes, made.decode(codes, encoded.audio_scales).audio_values
        return codes, made.decode(audio_codes=codes).audio_values


@pytest.mark.parametrize("name", MODELS)
def test_codes_and_audio_are_equal_before_and_after(name):
    made, audio = model(name), normal(2, 1, 960)
    state = {key: value.clone() for key, value in made.state_dict().items()}
    before = codes_and_audio(made, audio)
    changed = replace_quantizers(made)
    assert {one.name for one in changed} <= {key for key, _ in made.named_modules()}
    assert len(changed) == {"encodec": 1, "dac": 4}.get(name, 2)
    after = codes_and_audio(made, audio)
    assert before[0].unique().numel() > 5
    assert torch.equal(after[0], before[0])
    torch.testing.assert_close(after[1], before[1])
    assert list(made.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in made.state_dict().items())
    assert restore_quantizers(made) == [one.name for one in changed]
    assert restore_quantizers(made) == []
    assert not any("encode" in vars(module) or "decode_latents" in vars(module) for module in made.modules())
    again = codes_and_audio(made, audio)
    assert torch.equal(again[0], before[0])
    assert torch.equal(again[1], before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_codes_are_the_nearest_or_on_demand_the_original_s(name, dtype):
    made = model(name).to(dtype)
    quantizer = made.quantizer
    x = normal(2, made.config.hidden_size, 200).to(dtype)

    def codes():
        with torch.no_grad():
            return quantizer(x)[1] if name == "dac" else quantizer.encode(x)

    original = codes()
    changed = replace_quantizers(made, match="original")
    assert {one.methods for one in changed} == {() if name == "dac" else ("decode",)}
    assert torch.equal(codes(), original)
    replace_quantizers(made)
    nearest = codes()
    if dtype == torch.bfloat16:
        assert not torch.equal(nearest, original)
    replace_quantizers(made, match="original")
    assert torch.equal(codes(), original)
    assert restore_quantizers(made) == [one.name for one in changed]
    assert torch.equal(codes(), original)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dac_s_codes_are_those_of_a_float64_search(dtype):
    made = model("dac").to(dtype).quantizer.quantizers[0]
    replace_quantizers(made)
    latents = normal(2, made.codebook.weight.shape[1], 500).to(dtype)
    rows, table = latents.double().transpose(1, 2).reshape(1000, -1), made.codebook.weight.detach().double()
    right = torch.cdist(torch.nn.functional.normalize(rows), torch.nn.functional.normalize(table)).argmin(1)
    assert torch.equal(made.decode_latents(latents)[1].flatten(), right)


@pytest.mark.parametrize("name", ["encodec", "mimi"])
def test_the_search_is_one_call(name, monkeypatch):
    import unitok_kernels as uk

    made, calls, real = model(name), [], uk.residual_encode
    monkeypatch.setattr(uk, "residual_encode", lambda *a, **k: (calls.append(k), real(*a, **k))[1])
    codes_and_audio(made, normal(1, 1, 480))
    assert not calls
    replace_quantizers(made, precision="fast", backend=None)
    codes_and_audio(made, normal(1, 1, 480))
    assert len(calls) == (1 if name == "encodec" else 2)  # Mimi has a semantic chain and an acoustic one
    assert all(call["precision"] == "fast" for call in calls)


def test_fewer_levels_are_asked_for_as_before():
    made, audio = model("mimi"), normal(1, 1, 480)
    before = codes_and_audio(made, audio, num_quantizers=3)
    replace_quantizers(made)
    after = codes_and_audio(made, audio, num_quantizers=3)
    assert after[0].shape[1] == 3
    assert torch.equal(after[0], before[0])
    made = model("encodec")
    bandwidth = made.config.target_bandwidths[0]
    before = codes_and_audio(made, audio, bandwidth=bandwidth)
    replace_quantizers(made)
    assert torch.equal(codes_and_audio(made, audio, bandwidth=bandwidth)[0], before[0])


def test_dac_trains_alike():
    plain, audio = model("dac").train(), normal(2, 1, 960)
    fused = copy.deepcopy(plain)
    replace_quantizers(fused)
    gradients = []
    for made in (plain, fused):
        torch.manual_seed(1)
        output = made(audio)
        output.loss.sum().backward()
        gradients.append({name: p.grad for name, p in made.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_copy_is_swapped_on_its_own():
    made, audio = model("encodec"), normal(1, 1, 480)
    replace_quantizers(made)
    twin = copy.deepcopy(made)
    twin.quantizer.layers[0].codebook.embed.mul_(-1)
    before = codes_and_audio(made, audio)[0]
    restore_quantizers(made)
    assert torch.equal(codes_and_audio(made, audio)[0], before)
    swapped = codes_and_audio(twin, audio)[0]
    restore_quantizers(twin)
    assert torch.equal(codes_and_audio(twin, audio)[0], swapped)
    assert not torch.equal(swapped, before)


@pytest.mark.parametrize("name", ["encodec", "mimi", "dac"])
def test_a_quantizer_can_be_pickled(name):
    quantizer = model(name).quantizer
    replace_quantizers(quantizer)
    again = pickle.loads(pickle.dumps(quantizer))
    x = normal(2, 16 if name != "dac" else quantizer.quantizers[0].in_proj.in_channels, 9)
    expected, found = (made(x)[1] if name == "dac" else made.encode(x) for made in (quantizer, again))
    assert torch.equal(found, expected)
    for part in again.parameters() if name == "dac" else again.buffers():
        part.data.mul_(-1)  # the copy reads its own codebooks
    assert restore_quantizers(again)


def test_what_has_no_quantizer_is_refused():
    with raises("replace_quantizers: model must be one with a known quantizer, got Linear"):
        replace_quantizers(torch.nn.Linear(2, 2))
    with raises("replace_quantizers: match must be one of 'nearest', 'original', got 'theirs'"):
        replace_quantizers(torch.nn.Linear(2, 2), match="theirs")
    with raises("replace_quantizers: precision must be one of 'exact', 'fast', got 'low'"):
        replace_quantizers(torch.nn.Linear(2, 2), precision="low")
