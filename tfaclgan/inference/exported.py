"""What an exported file computes, as one Keras model: pictures in, pictures or styles out.

Importing this module registers the model with Keras; a .keras file of --mode=export then loads by

    import keras, tfaclgan.inference.exported
    model = keras.saving.load_model("translate.keras")
    images = model({"images": photos, "style": styles})["image"]

on any Keras backend. The other formats are made from the same model (inference/export_formats.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from tfaclgan.methods import base

Tensor = Any
PROGRAMS = ("translate", "encode_style")


@keras.saving.register_keras_serializable("tfaclgan")
class Exported(keras.Model):
    """`model({"images": [b, h, w, c], "style": [b, style_dim]})` -> {name: result}.

    translate gives "image" [b, h, w, c] and, if asked for, "mask" [b, h, w, 1]; encode_style takes images of the
    target domain alone and gives "style" [b, style_dim]. Methods without style take no "style".

    Args:
        method, config, image_shape: of the run.
        networks: {name: keras.Model}, at least those that the program uses.
        program: "translate" or "encode_style".
        direction: "a2b" or "b2a".
        pixels: "float": images in [-1, 1], masks in [0, 1]; "uint8": both as 0..255, translated inside.
        mask: also give the mask (of methods that have one).
    """

    def __init__(
        self,
        method: base.Method,
        config: Any,
        image_shape: base.ImageShape,
        networks: Mapping[str, Any],
        *,
        program: str,
        direction: str,
        pixels: str = "float",
        mask: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.method, self.config = method, config
        self.image_shape = tuple(image_shape)
        self.program, self.direction, self.pixels, self.mask = program, direction, pixels, mask
        # Sorted: Keras' files tell the networks apart by their order only.
        self.networks = dict(sorted(networks.items()))
        self.built = True

    @property
    def style_dim(self) -> int:
        """Of the "style" that the program takes; 0: it takes none."""
        return self.method.style_dim(self.config) if self.program == "translate" else 0

    def call(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        images = inputs["images"]
        if self.pixels == "uint8":
            images = ops.cast(images, "float32") / 127.5 - 1.0
        if self.program == "encode_style":
            style = self.method.encode_style(self.networks, images, self.direction, self.config)
            return {"style": ops.cast(style, "float32")}
        outcome = self.method.translate(self.networks, images, inputs.get("style"), self.direction, self.config)
        results = {"image": outcome.image}
        if self.mask and outcome.mask is not None:
            results["mask"] = outcome.mask
        return {name: self._finished(name, value) for name, value in results.items()}

    def _finished(self, name: str, value: Tensor) -> Tensor:
        value = ops.cast(value, "float32")
        if self.pixels == "float":
            return value
        value = value * 255.0 if name == "mask" else value * 127.5 + 127.5
        return ops.cast(ops.round(ops.clip(value, 0.0, 255.0)), "uint8")

    def get_build_config(self) -> None:
        """None: everything is built on construction."""
        return None

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "method": self.method.name,
            "config": dataclasses.asdict(self.config),
            "image_shape": list(self.image_shape),
            "networks": sorted(self.networks),
            "program": self.program,
            "direction": self.direction,
            "pixels": self.pixels,
            "mask": self.mask,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Exported:
        config = dict(config)
        method = base.get(config.pop("method"))
        options, image_shape = method.config(**config.pop("config")), tuple(config.pop("image_shape"))
        names = config.pop("networks")
        built = method.networks(options, image_shape)
        return cls(method, options, image_shape, {name: built[name] for name in names}, **config)
