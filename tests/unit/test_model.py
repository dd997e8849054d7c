"""The networks: packing, batch independence, the two ways through the cell, noise, and weights as bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import Tensor, nn

from cluster_rl.acting.policy import Policy
from cluster_rl.config import Config, ModelConfig
from cluster_rl.errors import UserError
from cluster_rl.model import (
    ObservationSpec,
    QNetwork,
    State,
    build_model,
    load_params,
    parameter_count,
    params_to_bytes,
)
from cluster_rl.networks.encoders import SpatialAttention
from cluster_rl.networks.frames import (
    CROP_CODE_STEP,
    CROP_PLANES,
    expand_crop,
    pack_screen,
    screens_of_packed,
    screens_of_shades,
    unpack_screen,
)
from cluster_rl.networks.noisy_linear import NoisyLinear
from cluster_rl.occupancy_memory import NOTHING_KNOWN, OUTSIDE, PERSON, SIGN, WALL, WARP

SPEC = ObservationSpec(context_size=6, crop_size=5, num_actions=7, aux_slots=(1, 4))
CONFIGS = {
    "slim lstm": Config(
        lstm_hidden_size=16,
        num_quantiles=4,
        model=ModelConfig(kind="slim", conv_channels=[4, 4, 8], context_width=8, trunk_width=16, noisy_sigma=0.5),
    ),
    "slim gru": Config(
        lstm_hidden_size=16,
        num_quantiles=4,
        model=ModelConfig(
            kind="slim", conv_channels=[4], context_width=8, trunk_width=16, recurrent_cell="gru", noisy_sigma=0.5
        ),
    ),
    "slim without memory": Config(
        lstm_hidden_size=16,
        num_quantiles=4,
        model=ModelConfig(
            kind="slim", conv_channels=[4], context_width=8, trunk_width=16, recurrent_cell="none", noisy_sigma=0.5
        ),
    ),
    "unified": Config(
        lstm_hidden_size=16,
        num_quantiles=4,
        model=ModelConfig(
            kind="unified", conv_channels=[4, 8, 8], context_width=8, trunk_width=16, attention_heads=2, noisy_sigma=0.5
        ),
    ),
    "unified, one stage, no noise": Config(
        lstm_hidden_size=16,
        num_quantiles=4,
        model=ModelConfig(conv_channels=[4], context_width=8, trunk_width=16, residual_blocks=0, noisy_sigma=0.0),
    ),
}


def make(name: str, seed: int = 0) -> QNetwork:
    torch.manual_seed(seed)
    return build_model(CONFIGS[name], SPEC)


def observations(count: int, seed: int = 0) -> tuple[Tensor, ...]:
    rng = np.random.default_rng(seed)
    screens = rng.integers(0, 4, (count, 72, 80), dtype=np.uint8)
    return (
        torch.from_numpy(pack_screen(screens)),
        torch.from_numpy(rng.integers(0, 256, (count, 6), dtype=np.uint8)),
        torch.from_numpy(rng.integers(0, 256, (count, 2, 5, 5), dtype=np.uint8)),
        torch.from_numpy(rng.integers(0, 8, count)),
        torch.from_numpy(rng.normal(size=count).astype(np.float32)),
    )


def random_state(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.randn(1, count, 16, generator=generator) * 0.5 for _ in range(2))  # type: ignore[return-value]


def act(network: QNetwork, frames: Sequence[Tensor], state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, State]:
    screens, *others = (part.numpy() for part in frames)
    shades = unpack_screen(frames[0]).numpy()
    noisy, clean, after = Policy(network).act(shades, screens, *others, (state[0][0].numpy(), state[1][0].numpy()))
    after_h, after_c = (torch.from_numpy(part).unsqueeze(0) for part in after)
    return torch.from_numpy(noisy), torch.from_numpy(clean), (after_h, after_c)


def test_packing_by_hand_and_back() -> None:
    screen = np.zeros((72, 80), dtype=np.uint8)
    screen[0, :8] = [3, 0, 1, 2, 0, 0, 0, 3]
    packed = pack_screen(screen)
    assert packed.shape == (72, 20)
    assert packed.dtype == np.uint8
    assert packed[0, :2].tolist() == [0b10_01_00_11, 0b11_00_00_00]
    many = np.random.default_rng(0).integers(0, 4, (3, 2, 72, 80), dtype=np.uint8)
    np.testing.assert_array_equal(unpack_screen(torch.from_numpy(pack_screen(many))).numpy(), many)


def test_packed_screens_and_shades_are_the_same_to_the_networks() -> None:
    shades = np.random.default_rng(0).integers(0, 4, (5, 72, 80), dtype=np.uint8)
    screens = screens_of_packed(torch.from_numpy(pack_screen(shades)))
    assert screens.shape == (5, 1, 72, 80)
    assert screens.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(screens, screens_of_shades(torch.from_numpy(shades)))
    np.testing.assert_array_equal(screens[:, 0].numpy(), shades * np.float32(1 / 3))


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_and_act_equals_the_learners_path(name: str) -> None:
    network = make(name)
    network.resample_noise(torch.Generator().manual_seed(1))
    frames, state = observations(6), random_state(6)
    noisy, clean, after = act(network, frames, state)
    assert noisy.shape == clean.shape == (6, 7, 4)

    outputs, learner_after = network.recur(network.encode(*frames).unsqueeze(0), state)
    assert outputs.shape == (1, 6, 16)
    torch.testing.assert_close(network.head(outputs, noise=True)[0], noisy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.head(outputs, noise=False)[0], clean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learner_after, after, rtol=1e-4, atol=1e-5)
    assert network.aux(outputs).shape == (1, 6, 2)
    assert torch.equal(noisy, clean) == (name == "unified, one stage, no noise")


@pytest.mark.parametrize("name", CONFIGS)
def test_an_items_result_does_not_depend_on_its_batch(name: str) -> None:
    network = make(name)
    frames, state = observations(64), random_state(64)
    _, whole, _ = act(network, frames, state)
    _, again, _ = act(network, frames, state)
    assert torch.equal(whole, again)
    for item in (0, 63):
        one = slice(item, item + 1)
        _, alone, _ = act(network, [x[one] for x in frames], (state[0][:, one], state[1][:, one]))
        torch.testing.assert_close(alone[0], whole[item], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_input_reaches_the_output(name: str) -> None:
    network = make(name)
    frames, state = observations(1), network.initial_state(1)
    before = network.encode(*frames)
    for index, changed in enumerate(observations(1, seed=9)):
        assert not torch.equal(changed, frames[index])
        mixed = [*frames[:index], changed, *frames[index + 1 :]]
        assert not torch.equal(network.encode(*mixed), before), index
    _, clean, _ = act(network, frames, state)
    _, remembered, _ = act(network, frames, random_state(1))
    assert torch.equal(clean, remembered) == (name == "slim without memory")


def test_codes_of_the_crop_get_a_plane_each() -> None:
    crop = torch.tensor([[[[0, 128, 255]], [[0, 51, 255]]]], dtype=torch.uint8)
    planes = expand_crop(crop)
    assert planes.shape == (1, CROP_PLANES, 1, 3)
    torch.testing.assert_close(planes[0, 0, 0], torch.tensor([0.0, 128 / 255, 1.0]))
    assert planes[0, 1:, 0].tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]
    codes = (NOTHING_KNOWN, WARP, SIGN, PERSON, WALL, OUTSIDE)
    assert codes == tuple(range(0, 256, CROP_CODE_STEP))
    assert len(codes) == CROP_PLANES


def test_no_previous_action_is_encoded_as_zeros() -> None:
    network = make("slim lstm")
    frames = [*observations(2)]
    frames[3], frames[4] = torch.tensor([7, 2]), torch.tensor([0.0, -1.0])
    tail = network.encode(*frames)[:, 16:]
    expected = [[0.0] * 8, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -math.log(2.0)]]
    torch.testing.assert_close(tail, torch.tensor(expected))


def test_without_memory_the_state_passes_through() -> None:
    network, state = make("slim without memory"), random_state(4)
    features = torch.randn(5, 4, network.feature_size)
    lengths = torch.tensor([0, 1, 3, 5])
    outputs, after = network.recur(features, state)
    packed_outputs, packed_after = network.recur(features, state, lengths)
    for one, other in ((after, state), (packed_after, state)):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    torch.testing.assert_close(packed_outputs[:3, 2:], outputs[:3, 2:])


@pytest.mark.parametrize("name", ["slim lstm", "slim gru"])
def test_lengths_stop_each_item_where_it_ends(name: str) -> None:
    network = make(name)
    lengths = torch.tensor([0, 1, 3, 5])
    features = torch.randn(5, 4, network.feature_size, generator=torch.Generator().manual_seed(2))
    state = random_state(4)
    _, (hidden, memory) = network.recur(features, state, lengths)
    for item, length in enumerate(lengths.tolist()):
        one = slice(item, item + 1)
        expected = (state[0][:, one], state[1][:, one])
        for step in range(length):
            _, expected = network.recur(features[step : step + 1, one], expected)
        torch.testing.assert_close(hidden[:, one], expected[0])
        torch.testing.assert_close(memory[:, one], expected[1])
    assert torch.equal(hidden[:, 0], state[0][:, 0])  # an empty item holds its state exactly
    # Running on through the unused rows, as if they were zero observations, would give other states.
    _, (run_on, _) = network.recur(features, state)
    assert not torch.allclose(run_on[:, :3], hidden[:, :3])


@pytest.mark.parametrize("kind", ["slim", "unified"])
def test_encoders_start_as_he_et_al_have_it(kind: str) -> None:
    """Normal weights of variance 2 / fan-in, biases 0. PyTorch's own start has a sixth of that variance."""
    torch.manual_seed(0)
    network = build_model(
        Config(model=ModelConfig(kind=kind, conv_channels=[16, 32, 32], context_width=64, trunk_width=128)), SPEC
    )
    checked = 0
    for encoder in (network.screen_encoder, network.context_encoder, network.crop_encoder, network.trunk):
        for layer in encoder.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                scaled = layer.weight.detach() * math.sqrt(layer.weight[0].numel() / 2)
                error = 4 / math.sqrt(scaled.numel())  # four times that of the mean of so many normal numbers
                assert scaled.mean().abs() < error
                assert scaled.square().mean() == pytest.approx(1.0, abs=error * math.sqrt(2))
                assert scaled.pow(4).mean() == pytest.approx(3.0, abs=error * math.sqrt(96))  # of a normal one
                assert not layer.bias.any()
                checked += 1
    assert checked == {"slim": 6, "unified": 17}[kind]


def gate_biases(**model: Any) -> Tensor:
    """The sum of the LSTM's two biases, [4, H]: gates in the order input, forget, cell, output."""
    config = CONFIGS["slim lstm"]
    network = build_model(structs.replace(config, model=structs.replace(config.model, **model)), SPEC)
    total = network.cell.get_parameter("bias_ih_l0") + network.cell.get_parameter("bias_hh_l0")
    return total.view(4, -1).detach()


def test_the_gates_start_with_a_forget_bias_of_1() -> None:
    assert gate_biases().mean(1).tolist() == [0, 1, 0, 0]


def test_chrono_initialisation_spans_the_steps_that_are_asked_for() -> None:
    gates = gate_biases(memory_steps=40)
    spans = 1 / (1 - torch.sigmoid(gates[1]))  # steps after which a unit has forgotten all but 1 / e, roughly
    assert spans.min() >= 2
    assert spans.max() <= 40
    assert 12 < spans.mean() < 30  # uniform over 2 to 40
    assert gates[[0, 2, 3]].count_nonzero() == 0
    assert gate_biases(memory_steps=1).count_nonzero() == 0


def test_noise_comes_from_the_generator_alone_and_only_after_the_cell() -> None:
    network = make("slim lstm")
    frames, state = observations(3), random_state(3)
    generator = torch.Generator().manual_seed(4)
    saved = generator.get_state()
    network.resample_noise(generator)
    first, clean, after = act(network, frames, state)
    network.resample_noise(generator)
    second, clean_again, after_again = act(network, frames, state)
    assert not torch.equal(first, second)
    assert torch.equal(clean, clean_again)
    assert torch.equal(after[0], after_again[0])
    generator.set_state(saved)
    torch.manual_seed(99)
    network.resample_noise(generator)
    assert torch.equal(act(network, frames, state)[0], first)


def test_noisy_layer_is_a_linear_layer_with_outer_product_noise() -> None:
    layer = NoisyLinear(3, 2, sigma=0.5)
    layer.noise_in.copy_(torch.tensor([1.0, -2.0, 0.5]))
    layer.noise_out.copy_(torch.tensor([3.0, -1.0]))
    inputs = torch.randn(4, 3)
    weight = layer.weight + layer.weight_sigma * torch.outer(layer.noise_out, layer.noise_in)
    bias = layer.bias + layer.bias_sigma * layer.noise_out
    torch.testing.assert_close(layer(inputs, noise=True), inputs @ weight.T + bias)
    torch.testing.assert_close(layer(inputs, noise=False), inputs @ layer.weight.T + layer.bias)


def test_noise_starts_as_fortunato_et_al_have_it() -> None:
    """Factorised: means uniform within 1 / sqrt(fan-in), sigma of weights and biases that times the config's."""
    torch.manual_seed(0)
    layer, bound = NoisyLinear(400, 300, sigma=0.5), 1 / 20
    for mean in (layer.weight, layer.bias):
        assert mean.abs().max() <= bound
        assert mean.detach().std() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    for sigma in (layer.weight_sigma, layer.bias_sigma):
        torch.testing.assert_close(sigma, torch.full_like(sigma, 0.5 * bound))


def test_noise_is_the_signed_root_of_normal_numbers() -> None:
    network, generator, drawn = make("slim lstm"), torch.Generator().manual_seed(0), []
    for _ in range(200):
        network.resample_noise(generator)
        drawn += [network.head_hidden.noise_in.clone(), network.head_advantage.noise_out.clone()]
    noise = torch.cat(drawn)
    assert noise.mean().abs() < 0.04
    assert noise.square().mean() == pytest.approx(math.sqrt(2 / math.pi), abs=0.04)  # E |x|; of normal ones it is 1


def test_dueling_advantages_are_centred_over_all_actions() -> None:
    network = make("unified")
    outputs = torch.randn(5, 16)
    quantiles = network.head(outputs, noise=False)
    for_value = torch.relu(network.head_hidden(outputs, noise=False)).chunk(2, -1)[0]
    torch.testing.assert_close(quantiles.mean(1), network.head_value(for_value, noise=False))


def test_attention_knows_positions() -> None:
    """Swapping two cells of the map is more than swapping two cells of the result: positions count."""
    torch.manual_seed(0)
    attention = SpatialAttention(8, 6, 2)
    features = torch.randn(1, 8, 2, 3)
    order = torch.tensor([0, 4, 2, 3, 1, 5])
    swapped = features.flatten(2)[..., order].view_as(features)
    result, of_swapped = attention(features).flatten(2), attention(swapped).flatten(2)
    assert not torch.allclose(result[..., order], of_swapped, atol=1e-4)
    with torch.no_grad():
        attention.position.zero_()
    torch.testing.assert_close(attention(features).flatten(2)[..., order], attention(swapped).flatten(2))


def test_heads_that_do_not_divide_are_bad_input() -> None:
    config = Config(model=ModelConfig(conv_channels=[6, 6], attention_heads=4))
    with pytest.raises(UserError, match="attention_heads"):
        build_model(config, SPEC)


def test_weights_as_bytes_and_back() -> None:
    source, other = make("unified", seed=1), make("unified", seed=2)
    frames, state = observations(2), random_state(2)
    expected = act(source, frames, state)[1]
    assert not torch.equal(act(other, frames, state)[1], expected)
    data = params_to_bytes(source)
    assert parameter_count(source) * 4 < len(data) < parameter_count(source) * 4 + 20_000
    load_params(other, data)
    assert torch.equal(act(other, frames, state)[1], expected)


def test_foreign_and_damaged_weights_are_refused_and_change_nothing() -> None:
    network = make("slim lstm")
    before = params_to_bytes(network)
    for data, message in (
        (params_to_bytes(make("unified")), "another network"),
        (before[: len(before) // 2], "damaged"),
        (b"", "damaged"),
    ):
        with pytest.raises(UserError, match=message):
            load_params(network, data)
    wider = Config(
        lstm_hidden_size=24,
        num_quantiles=4,
        model=CONFIGS["slim lstm"].model,
    )
    with pytest.raises(UserError, match="has shape"):
        load_params(network, params_to_bytes(build_model(wider, SPEC)))
    assert params_to_bytes(network) == before
