"""The table of settings: what papers and their released codes state for a method, by network and data set.

A script's own defaults (`experiment_parser(..., lr=0.01)`) are its method's usual settings. A row here says which of
them a source states, or sets other values on some networks and data sets. A flag that is typed comes before both. A
later row comes before an earlier one. The batch size of a method that has none of its own is that of data/catalog.py.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

OURS = "ours"


@dataclass(frozen=True)
class Setting:
    """What one source states.

    Args:
        methods: scripts below experiments/, separated by spaces.
        source: the paper; or OURS, for values that no paper states.
        states: flags, separated by spaces. The source states the script's own default.
        values: flags that the source sets otherwise than the script's default.
        when: flag -> its values for which the row holds, separated by spaces; `*` stands for any characters.
    """

    methods: str
    source: str
    states: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    when: Mapping[str, str] = field(default_factory=dict)

    def holds(self, method: str, flags: Mapping[str, Any]) -> bool:
        return method in self.methods.split() and all(
            any(fnmatch(str(flags.get(name)), pattern) for pattern in patterns.split())
            for name, patterns in self.when.items()
        )


_ILM, _EVP, _VP = "Chen et al., CVPR 2023", "Wu et al., TMLR 2024", "Bahng et al., 2022"
_BLM, _SMM, _AUTO = "Cai et al., NeurIPS 2024", "Cai et al., ICML 2024", "Tsao et al., ICLR 2024"
_ACAVP, _ATTR = "ACAVP, NeurIPS 2025", "Cai et al., ICLR 2025"
_DVP, _RVP = "Cai et al., ICML 2025", "RVP, arXiv 2609.36680"
_LORVP = "Jin et al., ICLR 2025"
_ARES, _ARES_METHODS = "AReS, CVPR 2026", "cnn/ares clip/ares"
_BLACKVIP = "Oh et al., CVPR 2023"
_DAM, _CAVP = "Huang et al., CVPR 2023", "Chen et al., ICASSP 2023"
_ILM_METHODS = "cnn/rlm_vp cnn/flm_vp cnn/ilm_vp cnn/linear_probing cnn/full_finetune clip/single_tp_vp clip/ilm_tp_vp"
_ILM_DATA = "flowers102 dtd ucf101 food101 gtsrb eurosat oxfordpets stanfordcars sun397 svhn cifar10 cifar100 abide"
_BLM_METHODS = "cnn/blm_vp cnn/blmp_vp clip/blm_vp clip/blmp_vp"
_SMM_METHODS = "cnn/smm cnn/watermark_vp"
_AUTO_METHODS = "cnn/auto_vp cnn/fully_vp clip/fully_vp"
_WITH_A_BATCH_SIZE = f"{_BLM_METHODS} {_SMM_METHODS} {_AUTO_METHODS} {_ARES_METHODS} cnn/lor_vp cnn/evp clip/evp"
_WITH_A_BATCH_SIZE += " cnn/acavp clip/acavp clip/attr_vr clip/dvp clip/rvp cnn/bar clip/bar clip/blackvip"
_WITH_A_BATCH_SIZE += " cnn/dam_vp cnn/c_avp clip/vp"
# The CLIP of BlackVIP's code, OpenAI's ViT-B/16. A file of its architecture is taken for it.
_VIT_B16 = {"clip_model": "ViT-B-16 ViT-B-16-quickgelu", "pretrained": "openai */*"}
_COORDINATED = {  # data set -> BlackVIP's momentum, gamma, c and strength on that CLIP
    "caltech101": (0.9, 0.2, 0.005, 0.2),
    "oxfordpets": (0.9, 0.1, 0.01, 1.0),
    "stanfordcars": (0.9, 0.2, 0.01, 0.3),
    "flowers102": (0.5, 0.2, 0.02, 1.0),
    "food101": (0.9, 0.1, 0.01, 0.3),
    "fgvc_aircraft": (0.3, 0.1, 0.01, 0.5),
    "sun397": (0.5, 0.1, 0.01, 1.0),
    "dtd": (0.7, 0.2, 0.01, 0.3),
    "svhn": (0.9, 0.2, 0.005, 1.0),
    "eurosat": (0.9, 0.2, 0.005, 0.4),
    "resisc45": (0.95, 0.1, 0.01, 0.3),
    "clevr": (0.9, 0.2, 0.005, 1.0),
    "ucf101": (0.9, 0.1, 0.01, 0.3),
}
_SPSA = "momentum alpha gamma c draws"
_VP_ASKED = {"lr": 10.0, "epoch": 250, "passes": 20, "batch_size": 128}  # of clip/vp.py --black-box

SETTINGS = (
    Setting(_ILM_METHODS, _ILM, states="lr epoch mapping_interval"),
    Setting(_ILM_METHODS, _ILM, states="batch_size", when={"dataset": _ILM_DATA}),
    Setting("cnn/evp clip/evp", _EVP, states="lr epoch batch_size prompt_size placement gradient_norm"),
    Setting("clip/vp", _VP, states="lr epoch batch_size prompt_size warmup vp_method"),
    Setting(_BLM_METHODS, _BLM, states="lr epoch batch_size smoothing top_fraction mapping_interval"),
    Setting(_BLM_METHODS, _BLM, values={"batch_size": 64}, when={"dataset": "dtd oxfordpets"}),
    Setting(
        _SMM_METHODS,
        _SMM,
        states="lr epoch batch_size mapping patch_size mask_channels mask_layers mask_schedule width",
    ),
    Setting(_SMM_METHODS, _SMM, values={"batch_size": 64}, when={"dataset": "dtd oxfordpets"}),
    Setting(
        "cnn/smm",
        _SMM,
        values={"mask_layers": 6, "mask_lr": 0.001, "mask_schedule": "constant"},
        when={"network": "timm:vit_*"},
    ),
    # its learning rate, epochs and batch size are stated for a ViT-B/16 of ImageNet-21k on Tiny-ImageNet alone
    Setting("cnn/lor_vp", _LORVP, states="rank mapping"),
    Setting(_AUTO_METHODS, _AUTO, states="lr epoch batch_size image_size scale mapping"),
    Setting(_AUTO_METHODS, _AUTO, values={"batch_size": 64}, when={"dataset": "flowers102 abide"}),
    Setting(_AUTO_METHODS, _AUTO, values={"batch_size": 32}, when={"dataset": "dtd"}),
    Setting(_AUTO_METHODS, _AUTO, values={"batch_size": 256}, when={"dataset": "sun397"}),
    Setting("cnn/auto_vp", _AUTO, values={"image_size": 200}, when={"dataset": "abide"}),
    Setting("cnn/acavp clip/acavp", _ACAVP, states="lr epoch batch_size augment"),
    Setting("clip/attr_vr", _ATTR, states="lr epoch batch_size attr_method descriptions nearest alpha"),
    Setting("clip/attr_vr", _ATTR, values={"batch_size": 16}, when={"shots": "1"}),
    Setting(_ARES_METHODS, _ARES, states="lr epoch batch_size smoothing top_fraction priming_epoch priming_lr"),
    Setting(_ARES_METHODS, _ARES, values={"batch_size": 64}, when={"dataset": "dtd oxfordpets"}),
    Setting("clip/dvp", _DVP, states="lr epoch batch_size descriptions nearest clusters"),
    Setting("clip/dvp", _DVP, values={"clusters": 1}, when={"dataset": "eurosat"}),
    Setting("clip/dvp", _DVP, values={"clusters": 2}, when={"dataset": "food101 ucf101"}),
    Setting("clip/rvp", _RVP, states="lr epoch batch_size descriptions mapping_lr"),
    Setting("clip/blackvip", OURS, states="passes alpha draws encoder momentum gamma c strength"),
    Setting("clip/blackvip", _BLACKVIP, states="lr epoch batch_size passes alpha draws encoder", when=_VIT_B16),
    *(
        Setting(
            "clip/blackvip",
            _BLACKVIP,
            values=dict(zip(("momentum", "gamma", "c", "strength"), values, strict=True)),
            when=_VIT_B16 | {"dataset": dataset},
        )
        for dataset, values in _COORDINATED.items()
    ),
    Setting("clip/bar", OURS, states="least_lr passes image_size beta draws"),
    Setting(
        "clip/bar",
        _BLACKVIP,
        states="lr least_lr epoch batch_size passes image_size beta draws",
        when=_VIT_B16,
    ),
    Setting("clip/bar", _BLACKVIP, values={"lr": 5.0}, when=_VIT_B16 | {"dataset": "flowers102 food101 dtd svhn"}),
    Setting(
        "clip/bar",
        _BLACKVIP,
        values={"lr": 5.0, "least_lr": 0.01},
        when=_VIT_B16 | {"dataset": "sun397 eurosat resisc45 ucf101"},
    ),
    Setting("clip/blackvip clip/bar", _BLACKVIP, values={"epoch": 125}, when=_VIT_B16 | {"dataset": "stanfordcars"}),
    Setting("clip/blackvip clip/bar", _BLACKVIP, values={"epoch": 50}, when=_VIT_B16 | {"dataset": "sun397"}),
    # the rate of training by gradients is none for it on any CLIP
    Setting("clip/vp", OURS, states=_SPSA, values=_VP_ASKED, when={"black_box": "True"}),
    Setting("clip/vp", _BLACKVIP, states=_SPSA, values=_VP_ASKED, when=_VIT_B16 | {"black_box": "True"}),
    *(
        Setting("clip/vp", _BLACKVIP, values=values, when=_VIT_B16 | {"black_box": "True", "dataset": datasets})
        for datasets, values in {
            "caltech101 sun397 clevr ucf101": {"lr": 20.0},
            "oxfordpets flowers102 eurosat": {"c": 0.005},
            "stanfordcars": {"momentum": 0.5},
            "dtd svhn clevr": {"momentum": 0.9},
        }.items()
    ),
    # they learn from differences of losses, which half precision rounds away: 51 % on EuroSAT instead of 71 %
    Setting("clip/vp", _BLACKVIP, values={"precision": "float32"}, when={"black_box": "True"}),
    Setting("clip/bar", _BLACKVIP, values={"precision": "float32"}),
    Setting("cnn/bar clip/blackvip", OURS, values={"precision": "float32"}),
    # its learning rates and weight decays by data set are not in its code
    Setting("cnn/dam_vp", _DAM, states="epoch batch_size cluster_images head_lr"),
    Setting("cnn/dam_vp", _DAM, values={"clusters": "distance:21"}, when={"network": "resnet50_v1"}),
    Setting(
        "cnn/dam_vp",
        _DAM,
        values={"clusters": "distance:31"},
        when={"network": "timm:vit_base_patch16_224.augreg_in1k"},
    ),
    Setting(
        "cnn/dam_vp",
        _DAM,
        values={"clusters": "distance:10"},
        when={"network": "timm:vit_base_patch16_224.augreg_in21k"},
    ),
    Setting(
        "cnn/dam_vp", _DAM, values={"clusters": "distance:20"}, when={"network": "timm:swin_base_patch4_window7_224*"}
    ),
    Setting("cnn/c_avp", _CAVP, states="lr epoch batch_size prompt_size eps attack_steps margin_weight margins"),
    # two steps an epoch would be too few
    Setting(_WITH_A_BATCH_SIZE, OURS, values={"batch_size": 16}, when={"dataset": "pictures"}),
    Setting(_WITH_A_BATCH_SIZE, OURS, values={"batch_size": 64}, when={"dataset": "digits*"}),
)


def stated_values(method: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that the table sets in place of the script's own, for these flags."""
    return {name: value for row in _rows(method, flags) for name, value in row.values.items()}


def origins(method: str, flags: Mapping[str, Any], typed: Collection[str]) -> dict[str, str]:
    """Where the value of each setting comes from: `flag` if it was typed, else `paper` or `own`.

    Args:
        typed: the flags that were typed. Those that the table does not know are named, too.
    """
    found = dict.fromkeys(("lr", "epoch", "batch_size"), "own")
    for row in _rows(method, flags):
        found |= dict.fromkeys((*row.states.split(), *row.values), "own" if row.source == OURS else "paper")
    found |= dict.fromkeys(typed, "flag")
    return {name: origin for name, origin in found.items() if name in flags}


def _rows(method: str, flags: Mapping[str, Any]) -> Iterator[Setting]:
    return (row for row in SETTINGS if row.holds(method, flags))
