"""Batch normalisation folded into the convolutions before it: the same function in fewer passes over memory."""

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

# Only these classes fold: other convolutions compute their weight anew. Names, since timm takes a second to import.
CONVOLUTIONS = ("torch.nn.modules.conv.Conv2d", "timm.layers.conv2d_same.Conv2dSame")
_TIMMS_NORMALISATION = "timm.layers.norm_act.BatchNormAct2d"
_NORMALISATIONS = ("torch.nn.modules.batchnorm.BatchNorm2d", _TIMMS_NORMALISATION)


def class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


class _Tracer(torch.fx.Tracer):
    """Treats timm's convolutions and batch normalisations as single layers, like torch's own."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return class_name(module) in (*CONVOLUTIONS, *_NORMALISATIONS) or super().is_leaf_module(module, qualified_name)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Folds every BatchNorm2d that directly follows a convolution of a network in eval mode; changes `network` itself.

    The graph only tells which layers follow each other, and whether another layer reads the convolution's output. The
    network keeps its own forward. A network stays as it is if torch.fx cannot trace it, or without batch normalisation.
    """
    modules = dict(network.named_modules())
    if not any(class_name(module) in _NORMALISATIONS for module in modules.values()):
        return network
    try:
        graph = _Tracer().trace(network)
    except Exception:  # torch.fx raises whatever the untraceable code of a network raises
        return network
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    for node in graph.nodes:
        if node.op != "call_module" or class_name(norm := modules[node.target]) not in _NORMALISATIONS:
            continue
        before = node.args[0]
        follows_conv = before.op == "call_module" and class_name(modules[before.target]) in CONVOLUTIONS
        if not follows_conv or len(before.users) > 1 or calls.count(node.target) > 1 or calls.count(before.target) > 1:
            continue
        rest = nn.Sequential(norm.drop, norm.act) if class_name(norm) == _TIMMS_NORMALISATION else nn.Identity()
        _replace(network, before.target, fuse_conv_bn_eval(modules[before.target], norm))
        _replace(network, node.target, rest)
    return network


def _replace(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)
