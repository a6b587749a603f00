"""The settings of each method's authors, as the specs have them: what the variants in params.yaml are held to."""

from __future__ import annotations

from typing import Any

from pipeline.methods.cct import KINDS

# Released experiments/pascal_4/config.yaml, train.py and semseg/utils at c21388c; on Cityscapes (cityscapes_2)
# num_pasted_classes 3, presence_area 0.01, region_area 0.005, confidence_threshold 0. Its losses are divided by eight
# GPUs and averaged over them once more, its weight decay is not: lr 0.01 and 0.0001 are 0.00125 and 0.0008 here.
AEL: dict[str, Any] = {
    "decay": 0.99,
    "buffers": "own",
    "teacher_mode": "train",
    "confidence_momentum": 0.999,
    "confidence_mean": "pixel",
    "initial_confidence": None,
    "absent_class": "zero",
    "num_pasted_classes": 1,
    "paste_probability": 0.5,
    "paste_scale": [0.2, 1.0],
    "paste_power": 0.5,
    "excluded_classes": [0, 1, 2, 8, 10],
    "presence_area": 0.03,
    "region_area": 0.03,
    "confidence_threshold": 0.7,
    "gamma": 2.0,
    "beta": 1.0,
    "normaliser": "batch",
    "labelled_consistency": True,
    "weight": 1.0,
}

# As reported for VOC; Cityscapes: decay 0.996, confidence_threshold 0 (released as -0.7: every pixel counts).
AUGSEG: dict[str, Any] = {
    "decay": 0.999,
    "buffers": "average",
    "confidence_threshold": 0.95,
    "max_operations": 3,
    "label_injection": True,
    "injection_beta": [8.0, 2.0],
    "mix_beta": [4.0, 4.0],
    "weak_in_batch": False,
    "weight": 1.0,
}

# yassouali/CCT, configs/config.json, base/base_trainer.py and models/decoders.py: PSPNet on ResNet-50, 10 + 10 images,
# lr 0.01 for the heads and a tenth of it for the encoder, decay 1e-4; the paper crops 320 and trains 80 epochs. The CPS
# authors' port (charlesCXK/TorchSemiSeg at 0c10bf0, exp.voc/voc8.res50v3+.CCT) has 2 of each kind but VAT, no ramp,
# bootstrapping to 0.99 and drops above 0.7 to 0.9.
CCT: dict[str, Any] = {
    "decoders": dict(zip(KINDS, (6, 6, 2, 2, 6, 6, 2), strict=True)),
    "dropout_rate": 0.5,
    "drop_range": [0.6, 0.9],  # shares of the highest activation
    "noise": 0.3,
    "cutout_share": 0.4,
    "vat_radius": 2.0,
    "background_classes": [0],
    "weight": 30.0,
    "ramp_share": 0.1,
    "bootstrap_threshold": None,
}

# charlesCXK/TorchSemiSeg at 0c10bf0, exp.voc/voc8.res50v3+.CPS+CutMix. On Cityscapes (exp.city/…, 8a4452b) the weight
# is 5; without CutMix it is 1.5 and 6 (README). VOC: crop 512, 16 + 16 images, 32, 34, 40, 60 epochs from 1/16 to 1/2,
# lr 0.005, heads alike, decay 1e-4. Cityscapes: crop 800, 16 + 16, 128, 137, 160, 240 epochs, lr 0.04, OHEM of 0.7 and
# 50,000 pixels an image. Deep stem, output stride 16, rates 6, 12, 18, 48 low-level channels, no warm start. Rates are
# halved here for 8 + 8 images. Losses are divided by the number of GPUs once too often: VOC's script (4) multiplies its
# rate by that number, Cityscapes' (8) does not, so 0.02 is 0.0025; the decay is not multiplied, so it is 0.0004 and
# 0.0008.
CPS: dict[str, Any] = {"cutmix": True, "weight": 1.0, "num_boxes": 3, "area": [0.25, 0.5]}

# ZHKKKe/PixelSSL at 41cacbd, task/sseg/script/deeplabv2_pascalvoc_1-8_sslgct.py: DeepLabv2 with COCO weights, crop 321,
# 2 + 2 images a GPU, 20 epochs of which 3 ramp, lr 2.5e-4 (a GPU), decay 5e-4; the detector has Adam at 1e-4 (a GPU).
# charlesCXK/TorchSemiSeg at 0c10bf0, exp.voc/voc8.res50v3+.GCT: the same weights, 3 of 34 epochs, two forwards.
GCT: dict[str, Any] = {
    "correction_weight": 1.0,
    "consistency_weight": 100.0,
    "ramp_share": 0.15,
    "flaw_threshold": 0.6,
    "joint_batch": True,
    "detector_weight": 10.0,
    "detector_width": 64,
    "detector_lr_factor": 0.4,
}

# Zhong et al., arXiv 2108.09025: the L2 and the contrastive loss, several ways of sampling negatives of which other
# images without false negatives is the best; every number is our choice, views and training are PseudoSeg's.
PC2SEG: dict[str, Any] = {
    "jitter": [0.5, 0.5, 0.5, 0.25],
    "cutout_share": 100 / 513,
    "consistency": "softmax",
    "consistency_weight": 1.0,
    "contrast_weight": 0.1,
    "temperature": 0.07,
    "projection_channels": 128,
    "num_anchors": 256,
    "num_candidates": 64,
    "num_negatives": 200,
    "negatives": "different_image",
    "debiased": True,
    "symmetric": False,
}

# googleinterns/wss at 8069dbe, train_wss.py and core/: crop 513, the cut square 100 pixels wide, 64 + 64 images, 30,000
# steps, lr 0.007, heads alike, decay 1e-4 (ResNet), output stride 16, rates 6, 12, 18, no warm start.
PSEUDOSEG: dict[str, Any] = {
    "image_labels": False,
    "background_class": 0,
    "fusion": "fused",
    "calibrate": True,
    "temperature": 0.5,
    "strong": True,
    "jitter": [0.5, 0.5, 0.5, 0.25],
    "cutout_share": 100 / 513,
    "inference_cam": True,
    "attention_channels": 128,
    "weight": 1.0,
}

# Released main branch, its defects included; `train_semi.py` and `u2pl/utils/loss_helper.py`.
U2PL: dict[str, Any] = {
    "num_anchors": 256,
    "num_negatives": 50,
    "contrast_weight": 0.25,  # 1 / 4 GPUs on VOC; 0.125, eight GPUs, on Cityscapes
    "anchors": "lowest",
    "positives": "unfiltered",
    "contrast_normaliser": "present",
    "max_enqueue_per_class": None,
    "teacher_start": "released",
    "padding": "learnt",
    "defect_one_hot": True,
    "defect_class_index": True,
    "defect_labelled_negatives": True,
    "defect_unlabelled_negatives": True,
}

# Released branch with_AEL at e14aefc: experiments/city_744/config.yaml, train.py; Cityscapes is all it was run on.
U2PL_AEL: dict[str, Any] = {
    "alpha0": 0.2,
    "dpa": True,
    "contrast_dpa": False,
    "entropy_drop": "low",
    "contrast_start_epoch": 20,
    "contrast_weight": 0.0125,  # 0.1, over eight GPUs once more than the other losses
    "num_anchors": 256,
    "num_negatives": 50,
    "anchors": "lowest",
    "positives": "unfiltered",
    "contrast_normaliser": "present",
    "max_enqueue_per_class": None,
    "defect_one_hot": True,
    "defect_class_index": True,
    "defect_labelled_negatives": True,
    "defect_unlabelled_negatives": True,
    "decay": 0.99,
    "buffers": "own",
    "teacher_mode": "eval",
    "confidence_mean": "pixel",
    "initial_confidence": None,
    "absent_class": "zero",
    "num_pasted_classes": 3,
    "paste_power": 0.5,
    "excluded_classes": [0, 1, 2, 8, 10],
    "presence_area": 0.01,
    "region_area": 0.005,
    "confidence_threshold": 0.0,
    "normaliser": "batch",
    "labelled_consistency": True,
}

# Released configs/pascal.yaml and unimatch.py at 818609d; Cityscapes: confidence_threshold 0 (configs/cityscapes.yaml).
UNIMATCH: dict[str, Any] = {
    "num_strong_views": 2,
    "feature_perturbation": True,
    "feature_dropout": 0.5,
    "feature_share": 0.5,
    "confidence_threshold": 0.95,
    "partner_labels": "eval",
    "box_probability": 0.5,
    "box_area": [0.02, 0.4],
    "box_aspect": [0.3, 1 / 0.3],
    "supervised_weight": 0.5,
    "weight": 0.5,
}

# Released unimatch_v2.py, model/semseg/dpt.py and configs at 70fe066, the same on every data set.
UNIMATCH_V2: dict[str, Any] = {
    "decay": 0.996,
    "buffers": "average",
    "confidence_threshold": 0.95,
    "dropout_share": 0.5,
    "box_probability": 0.5,
    "box_area": [0.02, 0.4],
    "box_aspect": [0.3, 1 / 0.3],
    "supervised_weight": 0.5,
    "weight": 0.5,
}
