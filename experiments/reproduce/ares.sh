#!/usr/bin/env bash
# AReS (CVPR 2026), 16 shots in both stages: CLIP's ViT-B/16 as the service of a local ViT-B/16, and ImageNet's ViT-B/16
# as that of a local ViT-B/32 or ResNet-50. The settings are in common.sh, and SERVICES="clip timm:vit_base_patch16_224";
# NETWORKS are the local networks of the second.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=flowers102 dtd ucf101 food101 gtsrb eurosat oxfordpets stanfordcars sun397 svhn}"
: "${NETWORKS:=timm:vit_base_patch32_224 resnet50_v1}"
: "${METHODS:=ares}"
: "${SERVICES=clip timm:vit_base_patch16_224}"
: "${SEEDS:=7 8 9}"

for dataset in $DATASETS; do
    for service in $SERVICES; do
        if [[ $service == clip ]]; then
            methods clip --network timm:vit_base_patch16_224 --dataset "$dataset" --shots 16
            continue
        fi
        for network in $NETWORKS; do
            methods cnn --service "$service" --network "$network" --dataset "$dataset" --shots 16
        done
    done
done
summary
