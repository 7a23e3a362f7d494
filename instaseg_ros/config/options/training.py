"""Options of training that belong to no method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from instaseg_ros.config.options.schema import param


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Random views of recorded images; of the rendered street, only `camera` applies."""

    scale_low: float = param(0.7, "least magnification", low=0.05, high=20.0)
    scale_high: float = param(1.6, "largest magnification", low=0.05, high=20.0)
    shift: float = param(
        0.35,
        "how far a view's object may lie from its middle, as a share of the view; 0: centred",
        low=0.0,
        high=0.5,
    )
    flip: float = param(0.5, "share of views that are mirrored", low=0.0, high=1.0)
    turn: bool = param(False, "also rotate by quarter turns: for images without an up and down")
    color: float = param(
        0.3, "strength of changes of exposure, contrast and colour", low=0.0, high=1.0
    )
    blur: float = param(0.1, "share of views that are blurred", low=0.0, high=1.0)
    noise: float = param(0.1, "share of views with added noise", low=0.0, high=1.0)
    camera: float = param(
        0.0,
        "strength of what other cameras and weather would do: tone curves, colours, blur, noise, "
        "night, rain, compression; not with train.cache: device",
        low=0.0,
        high=1.0,
    )
    paste: float = param(
        0.0,
        "whole objects of other images that are pasted into a view, on average, every class as "
        "often, on the rows of their own image; not with clips, nor with train.cache: device",
        low=0.0,
        high=50.0,
    )


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Options of training with any method; the method's `LossConfig` adds those of its loss.

    Overridden by `config/train/*.yaml`.
    """

    dataset: str = param("synthetic", "synthetic, or the path of a dataset; --data sets it")
    class_name: str = param(
        "", "class name in the weights, for a dataset of one class; empty: the dataset's"
    )
    new_heads: bool = param(
        False, "do not reuse the heads of the initial weights: for other kinds or scales of images"
    )
    encoder: str = param(
        "random",
        "initial encoder of profile lite, unless training starts from weights of that profile; "
        "imagenet: pretrained on ImageNet's 1000 classes (extra `train`)",
        choices=("random", "imagenet"),
    )
    encoder_rate: float = param(
        1.0, "factor of learning_rate for a pretrained encoder", low=0.0, high=100.0
    )
    encoder_held: int = param(
        0,
        "stages of profile lite's encoder, from the image on, that learn nothing and keep their "
        "statistics, as rendered images would spoil them; 7: all",
        low=0,
        high=7,
    )
    class_balance: float = param(
        0.5, "0: objects as often as they occur; 1: all classes equally often", low=0.0, high=1.0
    )
    backgrounds: str = param(
        "",
        "folder of pictures that show no object of any class, to learn what is none; not with "
        "clips; empty: none",
    )
    background_share: float = param(
        0.0, "share of views that show a random part of one of train.backgrounds", low=0.0, high=1.0
    )
    anywhere_share: float = param(
        0.0,
        "share of views around a random place of a random image of the dataset, instead of an "
        "object; not with the synthetic street, which is seen whole",
        low=0.0,
        high=1.0,
    )
    teacher: str = param(
        "",
        "weights (shipped name or file, of the same method and classes) whose outputs are learned "
        "beside the ground truth; empty: the ground truth alone",
    )
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    variation: float = param(
        0.0,
        "share of rendered streets that vary far more, in surfaces, shapes, clutter, crowds and "
        "focal length, to learn for real ones; what is held out stays as it is",
        low=0.0,
        high=1.0,
    )
    steps: int = param(20_000, "optimiser steps in all", low=1)
    seconds: float = param(
        0.0,
        "train for this long instead, validations included; the step size falls to 0 by then; 0: "
        "train.steps decides",
        low=0.0,
        high=1e7,
    )
    batch_size: int = param(4, "images or clips per step, over all processes", low=1, high=1024)
    clip_frames: int = param(1, "frames per clip, for methods with a memory", low=1, high=64)
    crop_height: int = param(
        256, "training crop height, a multiple of 8, or of 32 for profile lite", low=64, high=4096
    )
    crop_width: int = param(512, "training crop width, likewise", low=64, high=4096)
    horizon_rows: int = param(
        0,
        "rows of the crop, around the horizon, where small objects are; 0: the whole crop",
        low=0,
        high=4096,
    )
    learning_rate: float = param(5e-4, "Adam's peak step size", low=0.0, high=1.0)
    weight_decay: float = param(1e-4, "Adam's weight decay", low=0.0, high=1.0)
    warmup_steps: int = param(200, "steps of linear warm-up", low=0)
    schedule: str = param(
        "cosine",
        "how the step size falls to 0; poly: (1 - share of the steps done) ** 0.9, as published",
        choices=("cosine", "poly"),
    )
    clip_norm: float = param(1.0, "gradients are scaled down to this norm; 0: never", low=0.0)
    ema_decay: float = param(
        0.999, "decay of the averaged weights; 0: no averaging", low=0.0, high=1.0
    )
    weight_dense: float = param(
        0.0,
        "weight of a dataset's dense classes, as an extra task, for decode.class_vote; 0: not "
        "learned",
        low=0.0,
    )
    weight_teacher: float = param(1.0, "weight of the teacher's outputs, if any", low=0.0)
    foreground_weight: float = param(
        10.0, "weight of object pixels in a seed term and in a teacher's", low=0.0
    )
    class_weights: Mapping | str = param(
        "equal",
        "factors of foreground_weight by class name, such as {rider: 2}, 1 for the rest; "
        "log_frequency: 1 / ln(1.1 + share of the objects), 1 on average; equal: all 1",
    )
    small_object_px: float = param(
        0.0, "in seed and teacher terms, objects count like ones of at least this size", low=0.0
    )
    min_object_px: int = param(0, "objects with fewer pixels are ignored", low=0)
    dropout: float = param(
        1.0,
        "factor of the published dropout; 0 suits data in which no frame is seen twice",
        low=0.0,
        high=1.0,
    )
    fixed_batchnorm: bool = param(
        False, "normalise with the initial weights' statistics (the paper's second stage)"
    )
    seed: int = param(0, "random seed of weights and data", low=0)
    cache: str = param(
        "none",
        "where decoded images are kept; memory: in main memory, 3 bytes per pixel; device: also on "
        "the GPU, 5 bytes per pixel, which then makes the views too (spatial_embedding only)",
        choices=("none", "memory", "device"),
    )
    workers: int = param(
        -1,
        "data loading processes; -1: with a GPU one less than CPU cores, if memory allows; else 1",
        low=-1,
        high=256,
    )
    tensorboard: bool = param(False, "also write TensorBoard files; needs the extra `train`")
    log_every: int = param(20, "steps between rows of log.csv", low=1)
    save_every: int = param(200, "steps between saved states", low=1)
    save_every_s: float = param(
        0.0,
        "seconds between writes of weights.safetensors, besides those after validations; 0: never",
        low=0.0,
        high=1e7,
    )
    validate_every: int = param(1000, "steps between validations", low=1)
    validation_frames: int = param(60, "frames per validation", low=1)
