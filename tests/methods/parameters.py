"""The parameters every method is tested with, and the exceptions some methods need. One entry for each method file."""

from __future__ import annotations

from typing import Any

ADAPTIVE: dict[str, Any] = {
    "decay": 0.9,
    "teacher_mode": "eval",
    "confidence_momentum": 0.9,
    "confidence_mean": "image",
    "initial_confidence": 0.0,
    "absent_class": "keep",
    "num_pasted_classes": 3,
    "paste_probability": 0.5,
    "paste_scale": [0.2, 1.0],
    "paste_power": 1.0,
    "excluded_classes": [],
    "presence_area": 0.005,
    "region_area": 0.005,
    "confidence_threshold": 0.0,
    "gamma": 2.0,
    "beta": 1.0,
    "normaliser": "image",
    "labelled_consistency": True,
    "weight": 1.0,
}
STRONG_VIEWS: dict[str, Any] = {
    "confidence_threshold": 0.05,  # networks at initialisation are sure of nothing
    "box_probability": 0.5,
    "box_area": [0.02, 0.4],
    "box_aspect": [0.3, 3.3],
    "supervised_weight": 0.5,
    "weight": 0.5,
}

PARAMETERS: dict[str, dict[str, Any]] = {
    "suponly": {"decay": 0.9},
    "mean_teacher": {"weight": 1.0, "decay": 0.9, "buffers": "average"},
    "cutmix": {"mix_probability": 1.0, "weight": 1.0, "decay": 0.9, "buffers": "average"},
    "u2pl": {
        "alpha0": 0.2,
        "dpa": True,
        "entropy_source": "second",
        "weight": 1.0,
        "mix": "cutmix",
        "mix_probability": 1.0,
        "decay": 0.9,
        "buffers": "own",
        "teacher_start": "copy",
        "padding": "ignored",
        "contrast": "infonce",
        "contrast_weight": 0.1,
        "num_anchors": 5,
        "num_negatives": 7,
        "share_negatives": False,
        "temperature": 0.5,
        "anchor_threshold": 0.0,  # networks at initialisation are sure of nothing
        "rank_low": 1,
        "rank_high": 20,
        "prt": True,
        "negatives": "unreliable",
        "queue": True,
        "queue_size": 30,
        "queue_size_class_0": 50,
        "queue_dtype": "float32",
        "max_enqueue_per_class": 8,
        "anchors": "reliable",
        "positives": "anchors",
        "contrast_normaliser": "classes",
        "defect_one_hot": False,
        "defect_class_index": False,
        "defect_labelled_negatives": False,
        "defect_unlabelled_negatives": False,
    },
    "ael": ADAPTIVE | {"buffers": "average"},
    "unimatch": STRONG_VIEWS
    | {
        "num_strong_views": 2,
        "feature_perturbation": True,
        "feature_dropout": 0.5,
        "feature_share": 0.5,
        "partner_labels": "train",
    },
    "unimatch_v2": STRONG_VIEWS | {"decay": 0.9, "buffers": "average", "dropout_share": 0.5},
    "augseg": {
        "decay": 0.9,
        "buffers": "average",
        "confidence_threshold": 0.05,
        "max_operations": 3,
        "label_injection": True,
        "injection_beta": [8.0, 2.0],
        "mix_beta": [4.0, 4.0],
        "weak_in_batch": False,
        "weight": 1.0,
    },
}
CONTRAST = list(PARAMETERS["u2pl"]).index("contrast")  # from here on it is the contrast's parameters
PARAMETERS["u2pl_ael"] = (
    ADAPTIVE
    | dict(list(PARAMETERS["u2pl"].items())[CONTRAST:])
    | {
        "buffers": "own",
        "alpha0": 0.2,
        "dpa": True,
        "contrast_dpa": True,
        "entropy_drop": "high",
        "contrast_start_epoch": 0,
    }
)

PARAMETERS |= {
    "cct": {
        "decoders": {
            "dropout": 1,
            "cutout": 1,
            "context": 1,
            "object": 1,
            "feature_drop": 1,
            "feature_noise": 1,
            "vat": 1,
        },
        "dropout_rate": 0.5,
        "drop_range": [0.7, 0.9],
        "noise": 0.3,
        "cutout_share": 0.4,
        "vat_radius": 2.0,
        "background_classes": [0],
        "weight": 30.0,
        "ramp_share": 0.5,
        "bootstrap_threshold": None,
    },
    "gct": {
        "correction_weight": 1.0,
        "consistency_weight": 100.0,
        "ramp_share": 0.5,
        "flaw_threshold": 0.6,
        "joint_batch": True,
        "detector_weight": 10.0,
        "detector_width": 4,
        "detector_lr_factor": 1.0,
    },
    "pseudoseg": {
        "image_labels": False,
        "background_class": 0,
        "fusion": "fused",
        "calibrate": True,
        "temperature": 0.5,
        "strong": True,
        "jitter": [0.5, 0.5, 0.5, 0.25],
        "cutout_share": 0.2,
        "inference_cam": True,
        "attention_channels": 8,
        "weight": 1.0,
    },
    "pc2seg": {
        "jitter": [0.5, 0.5, 0.5, 0.25],
        "cutout_share": 0.2,
        "consistency": "softmax",
        "consistency_weight": 1.0,
        "contrast_weight": 0.1,
        "temperature": 0.07,
        "projection_channels": 8,
        "num_anchors": 16,
        "num_candidates": 16,
        "num_negatives": 10,
        "negatives": "different_image",
        "debiased": True,
        "symmetric": False,
    },
    "cps": {"cutmix": True, "weight": 1.5, "num_boxes": 3, "area": [0.25, 0.5]},
}

SIZES: dict[str, int] = {"gct": 48}
"""Pixels of a side, where 32 hide a loss: GCT's detector sees those as a single place, and finds no flaw at all."""

HOST_DECISIONS: dict[str, str] = {}
"""Methods whose definition needs a value on the host, which fake tensors refuse: name -> what for."""
