#!/usr/bin/env bash
# SMM (Cai et al., ICML 2024): the mask network beside its baselines Pad (ilm_vp), Narrow, Medium and Full
# (watermark_vp, 28, 56 and 112 pixels), all with iterative label mapping; mean and standard deviation over three seeds.
# The settings are in common.sh, and WIDTHS="28 56 112".
# The paper's ViT-B/32 has other weights, those of the package pytorch_pretrained_vit. Pad is in ILM-VP's own batches.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=cifar10 cifar100 svhn gtsrb flowers102 dtd ucf101 food101 sun397 eurosat oxfordpets stanfordcars}"
: "${NETWORKS:=resnet18 resnet50 timm:vit_base_patch32_384}"
: "${METHODS:=ilm_vp smm}"
: "${WIDTHS=28 56 112}"
: "${SEEDS:=7 8 9}"

for dataset in $DATASETS; do
    for network in $NETWORKS; do
        methods cnn --network "$network" --dataset "$dataset"
        for width in $WIDTHS; do
            METHODS=watermark_vp methods cnn --network "$network" --dataset "$dataset" --width "$width"
        done
    done
done
summary
