"""A trained run as a Python object: arrays in, arrays out.

    translator = tfaclgan.load("runs/glasses")
    images = translator.translate(photos)                       # uint8 [b, h, w, c] in and out
    images = translator.translate(photos, style=references)     # the style of other images
    masks = translator.mask(photos)                             # what the method may change, [0, 1]

The calls are the same for every translation method; one that has no mask or no style says so.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfaclgan.errors import UserError
from tfaclgan.inference import arrays
from tfaclgan.methods.base import Translation

if TYPE_CHECKING:
    from tfaclgan.training.rundir import Run

COMPILED_SHAPES = 16  # each holds a graph in memory; the one used least recently goes first


def load(run_dir: str, checkpoint: str = "latest", *, batch: int = 8) -> Translator:
    """Loads a run for translation, with averaged (EMA) weights where the run has them.

    Args:
        run_dir: a run directory made by `python -m tfaclgan.main --mode=train`, or a folder to give away
            (`tfaclgan.save_pretrained`).
        checkpoint: "latest" or "best" (by the run's metric).
        batch: most images in one call of the networks.

    Raises:
        UserError: no run directory, or no such checkpoint in it.
    """
    from tfaclgan.inference.pretrained import is_pretrained, load_pretrained
    from tfaclgan.training.rundir import load_networks

    run, networks = load_pretrained(run_dir) if is_pretrained(run_dir) else load_networks(run_dir, checkpoint)
    return Translator(run, networks, batch=batch)


class Translator:
    """Translates image arrays with the networks of a run.

    Images are [b, h, w, c], uint8 in 0..255 or float in [-1, 1], of any size: sides that the networks do not
    accept are padded by reflection (evenly on both sides, up to the next multiple, small images up to the
    smallest side the networks take) and the result is cropped back. Networks of one fixed size get
    images resized to it.

    Args:
        run: method, config and image shape; see `tfaclgan.training.rundir.Run`.
        networks: {name: keras.Model} of the run's method.
        batch: most images in one call of the networks; smaller calls are filled up to a power of two, so that
            few sizes of batch are ever compiled. Results do not depend on it.
    """

    def __init__(self, run: Run, networks: Mapping[str, Any], *, batch: int = 8) -> None:
        if batch < 1:
            raise UserError(f"batch {batch}: at least one image must fit in a call; give 1 or more")
        self.run = run
        self.networks = networks
        self.batch = batch
        self._compiled: collections.OrderedDict[tuple, Callable[..., Any]] = collections.OrderedDict()

    @property
    def channels(self) -> int:
        """Of the images: 1 (grey), 3 (RGB) or the data's number."""
        return self.run.image_shape[-1]

    @property
    def style_dim(self) -> int:
        """How many numbers a style has; 0 for a method without style."""
        return self.run.method.style_dim(self.run.config)

    @property
    def directions(self) -> tuple[str, ...]:
        """The trained directions, "a2b" or "b2a", the default first."""
        return tuple(self.run.method.directions(self.run.config))

    def translate(
        self,
        images: np.ndarray,
        direction: str | None = None,
        style: np.ndarray | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """Translated images.

        Args:
            images: [b, h, w, c], uint8 in 0..255 or float in [-1, 1].
            direction: "a2b" or "b2a"; None is the one the run was trained for (of two, a2b).
            style: [b, style_dim], or reference images of the target domain [b, h', w', c] whose styles are
                used; one row serves all images. None draws N(0, 1) for each image.
            seed: of the drawn styles, at least 0. Image i of the array gets a style that depends on seed and i only.

        Returns:
            [b, h, w, c] of the same type and range as `images`.

        Raises:
            UserError: images, style or direction that the run cannot take.
        """
        return self.translate_full(images, direction, style, seed).image

    def mask(
        self,
        images: np.ndarray,
        direction: str | None = None,
        style: np.ndarray | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """What the method paints over, float32 [b, h, w, 1] in [0, 1]; arguments as of `translate`.

        Raises:
            UserError: also if the run's method or its options have no mask.
        """
        mask = self.translate_full(images, direction, style, seed).mask
        if mask is None:
            raise UserError(f"this run has no masks: {self.run.method.title} as it was trained paints the whole image")
        return mask

    def translate_full(
        self,
        images: np.ndarray,
        direction: str | None = None,
        style: np.ndarray | None = None,
        seed: int = 0,
    ) -> Translation:
        """Image, mask and raw colours of one pass; arguments as of `translate`.

        Returns:
            Arrays: image and raw [b, h, w, c] of the type and range of `images`; mask float32 [b, h, w, 1] in
            [0, 1]. mask and raw are None where the method has none.
        """
        images = arrays.check_images(images, self.channels)
        direction = self.resolve_direction(direction)
        styles = self.resolve_styles(style, direction, len(images), seed)

        def call(pixels: Any, styles: Any = None) -> Any:
            outputs = self.run.method.translate(self.networks, pixels, styles, direction, self.run.config)
            return {name: value for name, value in outputs._asdict().items() if value is not None}

        outputs = self._in_batches(("translate", direction), call, images, styles)
        for name in ("image", "raw"):
            if name in outputs:
                outputs[name] = _like(outputs[name], images.dtype)
        return Translation(**outputs)

    @property
    def has_panels(self) -> bool:
        """Whether there is more to show of an image than its translation."""
        return self.run.method.panels is not None and self._has_all_networks

    @property
    def _has_all_networks(self) -> bool:
        phases = self.run.method.phases(self.run.config)
        return all(name in self.networks for phase in phases for name in phase.networks)

    def panels(self, images: np.ndarray, direction: str | None = None) -> dict[str, np.ndarray]:
        """What the method has to show of images, e.g. identity, cycle and heatmaps, in its order.

        Args:
            images: [b, h, w, c], uint8 in 0..255 or float in [-1, 1].
            direction: "a2b" or "b2a"; None is the run's.

        Returns:
            {name: uint8 [b, h, w, c]}; maps in false colours [b, h, w, 3], each from its smallest value (blue) to its
            largest (red).

        Raises:
            UserError: a method without panels; images or a direction that the run cannot take.
        """
        images = arrays.check_images(images, self.channels)
        direction = self.resolve_direction(direction)
        if self.run.method.panels is None:
            raise UserError(f"{self.run.method.title} has no panels, only translations; leave panels out")
        if not self._has_all_networks:
            raise UserError(
                f"{self.run.path}: panels also show where discriminators look, which a folder to give away does not "
                "hold; use the run directory"
            )

        def call(pixels: Any) -> Any:
            from keras import ops

            shown = self.run.method.panels(self.networks, pixels, direction, self.run.config)
            sides = tuple(pixels.shape[1:3])
            for name in shown:
                if tuple(shown[name].shape[1:3]) != sides:
                    shown[name] = ops.image.resize(shown[name], sides, interpolation="bilinear")
            return shown

        outputs = self._in_batches(("panels", direction), call, images, None)
        return {
            name: arrays.false_colours(value) if name.startswith("heat") else arrays.to_uint8(value)
            for name, value in outputs.items()
        }

    def encode_style(self, images: np.ndarray, direction: str | None = None) -> np.ndarray:
        """The styles of images of the direction's target domain.

        Args:
            images: [b, h, w, c], uint8 in 0..255 or float in [-1, 1].
            direction: "a2b" or "b2a"; None is the run's.

        Returns:
            float32 [b, style_dim].

        Raises:
            UserError: a method without style; images or a direction that the run cannot take.
        """
        images = arrays.check_images(images, self.channels, "reference images")
        direction = self.resolve_direction(direction)
        if not self.style_dim or self.run.method.encode_style is None:
            raise UserError(f"{self.run.method.title} takes no style from reference images; leave style out")

        def call(pixels: Any) -> Any:
            return {"style": self.run.method.encode_style(self.networks, pixels, direction, self.run.config)}

        return self._in_batches(("encode_style", direction), call, images, None)["style"]

    def resolve_direction(self, direction: str | None) -> str:
        """The direction meant; UserError if the run was not trained for it."""
        if not direction:
            return self.directions[0]
        if direction not in self.directions:
            raise UserError(
                f"direction {direction}: this run was trained for {', '.join(self.directions)} only; "
                "ask for that, or train a run for the other"
            )
        return direction

    def resolve_styles(self, style: np.ndarray | None, direction: str, count: int, seed: int) -> np.ndarray | None:
        """The styles [count, style_dim] that `style` (as of `translate`) stands for; None without style."""
        if seed < 0:
            raise UserError(f"seed {seed}: seeds are whole numbers from 0; give one")
        if not self.style_dim:
            if style is not None:
                raise UserError(f"{self.run.method.title} has no style; leave style out")
            return None
        if style is None:
            drawn = [arrays.draw_style(seed, index, self.style_dim) for index in range(count)]
            return np.reshape(np.asarray(drawn, np.float32), (count, self.style_dim))
        style = np.asarray(style)
        if style.ndim == 4:
            style = self.encode_style(style, direction)
        if style.ndim != 2 or style.shape[1] != self.style_dim or len(style) not in (1, count):
            raise UserError(
                f"style: shape {list(style.shape)}, but [{count}, {self.style_dim}], [1, {self.style_dim}] "
                f"or {count} or 1 reference images [b, h, w, {self.channels}] are wanted"
            )
        if not np.issubdtype(style.dtype, np.number) or not np.isfinite(style).all():
            raise UserError("style: holds values that are no finite numbers; give finite ones, e.g. drawn from N(0, 1)")
        return np.broadcast_to(style.astype(np.float32), (count, self.style_dim))

    def _in_batches(
        self,
        kind: tuple[str, str],
        call: Callable[..., dict[str, Any]],
        images: np.ndarray,
        styles: np.ndarray | None,
    ) -> dict[str, np.ndarray]:
        """`call` on padded float batches; its outputs, float32 and (images and masks) cropped back."""
        method, config = self.run.method, self.run.config
        around = arrays.border(*images.shape[1:3], method.size_multiple(config), method.minimum_size(config))
        fixed = self.run.image_shape[:2] if method.fixed_size(config) else None
        parts = []
        # An empty array goes through the networks too (as one black image), so that its outputs have their shapes.
        for start in range(0, max(len(images), 1), self.batch):
            chunk = images[start : start + self.batch]
            filled = 1 << max(len(chunk) - 1, 0).bit_length()
            chunk = chunk if len(chunk) else np.zeros((1, *images.shape[1:]), images.dtype)
            pixels = arrays.pad_batch(_as_float(chunk), min(filled, self.batch))
            inputs = [arrays.resize(pixels, *fixed) if fixed else arrays.pad(pixels, around)]
            if styles is not None:
                part = styles[start : start + self.batch] if len(styles) else np.zeros((1, self.style_dim), np.float32)
                inputs.append(arrays.pad_batch(part, len(inputs[0])))
            parts.append(self._compile(kind, inputs[0].shape, call)(*inputs))
        outputs = {}
        for name in parts[0]:
            values = np.concatenate([_to_numpy(part[name]) for part in parts])[: len(images)]
            if values.ndim == 4:
                values = arrays.resize(values, *images.shape[1:3]) if fixed else arrays.crop(values, around)
            outputs[name] = values
        return outputs

    def _compile(self, kind: tuple[str, str], shape: tuple[int, ...], call: Callable[..., Any]) -> Callable[..., Any]:
        """`call` compiled for one kind and shape of images."""
        key = (kind, shape)
        if key not in self._compiled:
            self._compiled[key] = _compile(call, self.networks)
            if len(self._compiled) > COMPILED_SHAPES:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return self._compiled[key]


def _compile(call: Callable[..., Any], networks: Mapping[str, Any]) -> Callable[..., Any]:
    """`call`, which uses the networks' weights as they are at each call, compiled by the running backend."""
    import keras

    compilers = {"tensorflow": _compile_with_tensorflow, "jax": _compile_with_jax}
    name = keras.backend.backend()
    return compilers[name](call, networks) if name in compilers else call


def _compile_with_tensorflow(call: Callable[..., Any], networks: Mapping[str, Any]) -> Callable[..., Any]:
    import tensorflow as tf

    from tfaclgan.engine import cores

    function = tf.function(cores.in_branches(call), autograph=False)

    def run(*inputs: np.ndarray) -> Any:
        try:
            return function(*(tf.constant(value) for value in inputs))
        except tf.errors.ResourceExhaustedError as error:
            raise _too_large(inputs[0]) from error

    return run


def _compile_with_jax(call: Callable[..., Any], networks: Mapping[str, Any]) -> Callable[..., Any]:
    import jax
    import keras

    variables = [variable for network in networks.values() for variable in network.variables]

    @jax.jit
    def function(values: list[Any], inputs: tuple[Any, ...]) -> Any:
        with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
            return call(*inputs)

    def run(*inputs: np.ndarray) -> Any:
        try:
            return function([variable.value for variable in variables], inputs)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise _too_large(inputs[0]) from error

    return run


def _too_large(images: np.ndarray) -> UserError:
    batch, height, width, _ = images.shape
    return UserError(
        f"{batch} images of {height} x {width} pixels do not fit in the device's memory; "
        "resize them (--resize), or take fewer at once (Translator.batch)"
    )


def _as_float(images: np.ndarray) -> np.ndarray:
    return arrays.to_float(images) if images.dtype == np.uint8 else images.astype(np.float32)


def _like(images: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return arrays.to_uint8(images) if dtype == np.uint8 else images.astype(dtype)


def _to_numpy(value: Any) -> np.ndarray:
    from keras import ops

    return ops.convert_to_numpy(ops.cast(value, "float32"))
