"""MUNIT's networks: parameters, names, initial values, sizes, precision."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.errors import UserError
from tfaclgan.networks import munit
from tfaclgan.networks.munit_sizes import check_size, minimum_side

PAPER = {"width": 64, "downsamples": 2, "residual_blocks": 4, "style_dim": 8, "mlp_dim": 256}
TINY = {"width": 4, "downsamples": 2, "residual_blocks": 1, "style_dim": 3, "mlp_dim": 8}


def generator(channels=3, mask=True, name="g", **sizes):
    return munit.Generator(channels, mask=mask, name=name, **{**TINY, **sizes})


def discriminator(channels=3, width=4, scales=2, layers_per_scale=2, name="d"):
    return munit.discriminator(channels, width=width, scales=scales, layers_per_scale=layers_per_scale, name=name)


def _valid_convolution(images, kernel, bias):
    windows = np.lib.stride_tricks.sliding_window_view(images, kernel.shape[:2], axis=(1, 2))  # [b, h, w, c, kh, kw]
    return np.einsum("bhwcij,ijcf->bhwf", windows, kernel) + bias


def noise(*shape):
    return np.random.RandomState(0).uniform(-1, 1, shape).astype("float32")


class TestParameters:
    """The official networks' counts (reference 2.5)."""

    @pytest.mark.parametrize("mask, decoder, total", [(True, 5_757_764, 15_029_324), (False, 5_754_627, 15_026_187)])
    def test_generator(self, mask, decoder, total):
        network = munit.Generator(3, mask=mask, name="g", **PAPER)
        parts = [network.content_encoder, network.style_encoder, network.mlp, network.decoder]
        assert [part.count_params() for part in parts] == [5_385_856, 2_764_936, 1_120_768, decoder]
        assert network.count_params() == total

    @pytest.mark.parametrize("channels, total", [(3, 8_271_171), (6, 8_280_387)])
    def test_discriminator(self, channels, total):
        assert discriminator(channels, 64, 3, 4).count_params() == total


class TestNames:
    """Paths of weights are part of every checkpoint."""

    def test_are_unique_and_the_same_each_time(self):
        paths = [[v.path for v in generator(name="g_t").variables] for _ in range(2)]
        assert paths[0] == paths[1]
        assert len(set(paths[0])) == len(paths[0])
        assert all(path.startswith("g_t/") for path in paths[0])
        paths = [[v.path for v in discriminator(name="d_s").variables] for _ in range(2)]
        assert paths[0] == paths[1]
        assert all(path.startswith("d_s/scale") for path in paths[0])

    def test_every_layer_has_its_name(self):
        twins = [(generator(), discriminator()) for _ in range(2)]
        layers = [[layer.name for network in pair for layer in network._flatten_layers()] for pair in twins]
        assert layers[0] == layers[1]

    def test_all_weights_exist_before_the_first_call(self):
        network = generator()
        count = len(network.variables)
        network(noise(1, 16, 16, 3))
        assert network.built
        assert len(network.variables) == count


class TestInitialValues:
    """Reference 2.4."""

    def test_generator_kernels(self):
        network = munit.Generator(3, mask=True, name="g", **PAPER)
        for variable in network.variables:
            value = variable.numpy()
            if variable.path.endswith("bias") or variable.path.endswith("beta"):
                assert not value.any()
            elif variable.path.endswith("kernel"):
                deviation = np.sqrt(2 / np.prod(value.shape[:-1]))
                tolerance = 5 / np.sqrt(2 * value.size)
                assert value.std() == pytest.approx(deviation, rel=tolerance), variable.path
                if value.size > 1e5:  # truncated at two deviations, as Keras' HeNormal is, this would be 2.3
                    assert np.abs(value).max() > 3.5 * deviation

    def test_discriminator_kernels(self):
        for variable in discriminator(3, 64, 2, 3).variables:
            value = variable.numpy()
            if variable.path.endswith("kernel"):
                assert value.std() == pytest.approx(0.02, rel=5 / np.sqrt(2 * value.size))
            else:
                assert not value.any()

    def test_balanced(self):
        """Scores of a narrow discriminator keep their size; AdaIN begins near plain normalisation."""
        network = generator(initial="balanced", residual_blocks=2, mlp_dim=64)
        numbers = network.mlp(np.random.RandomState(0).standard_normal((200, 3))).numpy()
        numbers = numbers.reshape(200, 4, 2, 16)  # norm, shift or factor, channel
        assert abs(numbers[:, :, 0].mean()) < 0.05
        assert abs(numbers[:, :, 1].mean() - 1) < 0.05
        assert 0.01 < numbers[:, :, 0].std() < 0.5
        for variable in munit.discriminator(
            3, width=16, scales=1, layers_per_scale=3, name="d", initial="balanced"
        ).variables:
            value = variable.numpy()
            if variable.path.endswith("kernel"):
                deviation = np.sqrt(2 / np.prod(value.shape[:-1]))
                assert value.std() == pytest.approx(deviation, rel=5 / np.sqrt(2 * value.size))

    def test_follow_the_global_seed(self):
        values = []
        for seed in (1, 1, 2):
            keras.utils.set_random_seed(seed)
            values.append([v.numpy() for network in (generator(), discriminator()) for v in network.variables])
        assert all(np.array_equal(a, b) for a, b in zip(values[0], values[1]))
        assert not all(np.array_equal(a, b) for a, b in zip(values[0], values[2]))
        kernels = [v for v in values[0] if v.ndim == 4]
        assert not np.array_equal(kernels[-1], kernels[-2])


class TestGenerator:
    """Shapes and ranges."""

    @pytest.mark.parametrize("channels", [1, 3, 5])
    @pytest.mark.parametrize("mask", [False, True])
    def test_channels_and_rectangles(self, channels, mask):
        network, images = generator(channels, mask), noise(2, 16, 24, channels)
        content, style = network.content(images), network.style(images)
        assert tuple(content.shape) == (2, 4, 6, 16)
        assert tuple(style.shape) == (2, 3)
        raw = network.decode(content, style)
        assert tuple(raw.shape) == (2, 16, 24, channels + mask)
        assert np.abs(raw).max() < 1
        np.testing.assert_array_equal(network(images), raw)

    def test_skip_shows_the_images_at_every_size(self):
        """Convolutions of maps and images, before the blocks and at the end; pooled images beside the maps between."""
        network = generator(skip=True)
        images, style = noise(2, 16, 20, 3), noise(2, 3)
        content = network.content(images)
        decoder, names = network.decoder, ("skip_content_activation", "up0_activation", "skip1", "up1_activation")
        inside = keras.Model(decoder.inputs, [decoder.get_layer(name).output for name in names])
        maps = dict(zip(names, inside([content, network.mlp(style), tf.constant(images)]), strict=True))

        def pooled(halvings):
            side = 2**halvings
            return images.reshape(2, 16 // side, side, 20 // side, side, 3).mean((2, 4))

        def mixed(x, sees, label):
            seen = np.pad(np.concatenate([x, sees], -1), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
            return np.maximum(_valid_convolution(seen, *decoder.get_layer(label).get_weights()), 0)

        begun = mixed(content, pooled(2), "skip_content_conv")
        np.testing.assert_allclose(maps["skip_content_activation"], begun, atol=1e-5)
        between = np.concatenate([maps["up0_activation"], pooled(1)], -1)
        np.testing.assert_allclose(maps["skip1"], between, atol=1e-6)
        end = np.pad(mixed(maps["up1_activation"], images, "skip_conv"), ((0, 0), (3, 3), (3, 3), (0, 0)), "reflect")
        expected = np.tanh(_valid_convolution(end, *decoder.get_layer("output_conv").get_weights()))
        np.testing.assert_allclose(network.decode(content, style, images), expected, atol=1e-5)

    def test_any_size_with_the_same_weights(self):
        network = generator()
        for height, width in ((16, 16), (20, 36), (64, 16)):
            raw = network.decode(network.content(noise(1, height, width, 3)), noise(1, 3))
            assert tuple(raw.shape) == (1, height, width, 4)

    def test_blend(self):
        raw, background = noise(2, 4, 4, 4), noise(2, 4, 4, 3)[..., ::-1]
        image, mask = munit.blend(tf.constant(raw), tf.constant(background))
        expected = (raw[..., 3:].astype("float64") + 1) / 2
        np.testing.assert_allclose(mask, expected, rtol=1e-6)
        np.testing.assert_allclose(image, raw[..., :3] * expected + background * (1 - expected), rtol=1e-5, atol=1e-6)

    def test_blend_of_a_grey_image_takes_the_last_channel_as_mask(self):
        raw, background = noise(1, 4, 4, 2), np.zeros((1, 4, 4, 1), "float32")
        image, mask = munit.blend(tf.constant(raw), tf.constant(background))
        np.testing.assert_allclose(mask, (raw[..., 1:] + 1) / 2, rtol=1e-6)
        np.testing.assert_allclose(image, raw[..., :1] * (raw[..., 1:] + 1) / 2, rtol=1e-5, atol=1e-7)

    def test_without_a_mask_nothing_is_blended(self):
        raw = tf.constant(noise(1, 4, 4, 3))
        assert munit.blend(raw, tf.zeros((1, 4, 4, 3))) == (raw, None)

    def test_config_rebuilds_the_network(self):
        network = generator(2, mask=False, downsamples=1)
        again = munit.Generator.from_config(network.get_config())
        assert [v.path for v in again.variables] == [v.path for v in network.variables]
        assert [v.shape for v in again.variables] == [v.shape for v in network.variables]


class TestHalfPrecision:
    """Weights, outputs and scores stay float32 under mixed bfloat16."""

    @pytest.fixture(autouse=True)
    def policy(self):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        yield
        keras.config.set_dtype_policy(before)

    def test_generator(self):
        network = generator()
        assert {v.dtype for v in network.variables} == {"float32"}
        content = network.content(noise(1, 16, 16, 3))
        style = network.style(noise(1, 16, 16, 3))
        assert (content.dtype, style.dtype) == (tf.bfloat16, tf.float32)
        raw = network.decode(content, style)
        assert raw.dtype == tf.float32
        # A tanh in bfloat16 could give no other values than these.
        assert not np.array_equal(raw, tf.cast(tf.cast(raw, tf.bfloat16), tf.float32))

    def test_discriminator(self):
        network = discriminator()
        assert {v.dtype for v in network.variables} == {"float32"}
        assert {score.dtype for score in network(noise(1, 16, 16, 3))} == {tf.float32}


class TestSmallestSize:
    """Computed without building anything; here held against the networks themselves."""

    def test_of_the_released_model(self):
        assert minimum_side(downsamples=2, scales=3, layers_per_scale=4) == 64

    def test_official_discriminators_accept_61_and_not_60(self):
        network = discriminator(scales=3, layers_per_scale=4)
        assert len(network(noise(1, 61, 61, 3))) == 3
        with pytest.raises(Exception, match="padd"):
            network(noise(1, 60, 60, 3))

    @pytest.mark.parametrize(
        "downsamples, scales, layers_per_scale", [(1, 1, 1), (2, 1, 5), (3, 2, 3), (2, 3, 2), (4, 2, 2), (2, 4, 1)]
    )
    def test_is_exact(self, downsamples, scales, layers_per_scale):
        judge = discriminator(width=1, scales=scales, layers_per_scale=layers_per_scale)
        painter = generator(width=1, downsamples=downsamples)

        def use(side):
            return painter(noise(1, side, side, 3)), judge(noise(1, side, side, 3))

        side = minimum_side(downsamples, scales, layers_per_scale)
        assert side % 2**downsamples == 0
        use(side)
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            use(side - 2**downsamples)

    def test_check_accepts_the_smallest(self):
        check_size("acl_gan", (64, 128, 3), 4, 64)

    @pytest.mark.parametrize(
        "shape, message",
        [
            ((66, 64, 3), "66 x 64.*multiples of 4.*68 x 64"),
            ((64, 60, 3), "64 x 60.*at least 64.*discriminator_scales"),
        ],
    )
    def test_check_refuses(self, shape, message):
        with pytest.raises(UserError, match=message) as caught:
            check_size("acl_gan", shape, 4, 64)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scales", [1, 2])
def test_scores_are_a_list_also_of_one_scale(scales):
    judge = munit.discriminator(3, width=2, scales=scales, layers_per_scale=2, name=f"judge{scales}")
    scores = judge(np.zeros((1, 32, 32, 3), "float32"))
    assert isinstance(scores, list)
    assert [tuple(score.shape) for score in scores] == [(1, 8, 8, 1), (1, 4, 4, 1)][:scales]
    assert all(path.startswith(f"judge{scales}/") for path in (v.path for v in judge.variables))
