#!/usr/bin/env bash
# LoR-VP (Jin et al., ICLR 2025) beside linear probing, of which it is a part by default. The settings are in common.sh,
# and OUTPUTS="lp full flm ilm".
# Of the paper's data sets these two are here; its Tiny-ImageNet and ImageNet are not. Its learning rates by network are
# not in its code, so all networks have that of the released script. Linear probing has its own settings.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=cifar10 cifar100}"
: "${NETWORKS:=resnet18 resnet50 timm:vit_base_patch16_224.augreg2_in21k_ft_in1k}"
: "${METHODS:=linear_probing}"
: "${OUTPUTS=lp full}"
: "${SEEDS:=7 8 9}"

for dataset in $DATASETS; do
    for network in $NETWORKS; do
        methods cnn --network "$network" --dataset "$dataset"
        for output in $OUTPUTS; do
            METHODS=lor_vp methods cnn --network "$network" --dataset "$dataset" --output "$output"
        done
    done
done
summary
