"""Published data sets: their archives, where they are, what proves them intact, and the terms they come under."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remote:
    """A published file: its name on a mirror, where it is published, and `sha256:…` or `md5:…` of its content.

    An empty checksum: the address, at a pinned commit, is all that is known of the content.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str


VOC = Remote(
    "VOCtrainval_11-May-2012.tar",
    (
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    ),
    "sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
)
SBD = Remote(
    "benchmark.tgz",
    ("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",),
    "md5:82b4d87ceb2ed10f6038a1cba92111cb",
)
CITYSCAPES_FINE = Remote("gtFine_trainvaltest.zip", (), "md5:4237c19de34c8a376e9ba46b495d6f66")
CITYSCAPES_IMAGES = Remote("leftImg8bit_trainvaltest.zip", (), "md5:0a6e97e94b616a514066c9e2adb0c97f")
COCO_HOST = "http://images.cocodataset.org"
COCO_TRAIN = Remote("train2017.zip", (f"{COCO_HOST}/zips/train2017.zip",), "md5:cced6f7f71b7629ddf16f17bbcfab6b2")
COCO_VAL = Remote("val2017.zip", (f"{COCO_HOST}/zips/val2017.zip",), "md5:442b8da7639aecaf257c1dceb8ba8c80")
COCO_ANNOTATIONS = Remote(
    "annotations_trainval2017.zip",
    (f"{COCO_HOST}/annotations/annotations_trainval2017.zip",),
    "md5:f4bbac642086de4f52a3fdda2de5fa2c",
)

ARCHIVES = {
    "voc": (VOC, SBD),
    "cityscapes": (CITYSCAPES_FINE, CITYSCAPES_IMAGES),  # no addresses: behind an account
    "coco": (COCO_TRAIN, COCO_VAL, COCO_ANNOTATIONS),
}

TERMS = {
    "voc": """PASCAL VOC 2012: images from Flickr, whose terms of use apply; see
  http://host.robots.ox.ac.uk/pascal/VOC/voc2012/#rights. Cite Everingham et al., IJCV 2015.
Semantic Boundaries Dataset: for research; see http://home.bharathh.info/pubs/codes/SBD/download.html.
  Cite Hariharan et al., ICCV 2011.""",
    "cityscapes": """Cityscapes: for non-commercial research and teaching, not to be passed on; needs an account. See
  https://www.cityscapes-dataset.com/license/. Cite Cordts et al., CVPR 2016.""",
    "coco": """COCO 2017: annotations under CC BY 4.0; images from Flickr, whose terms of use apply. See
  https://cocodataset.org/#termsofuse. Cite Lin et al., ECCV 2014.""",
}
