#!/usr/bin/env bash
# DAM-VP (Huang et al., CVPR 2023) without and with a head, beside linear probing. Its prompts start with normal values:
# the paper's meta-training is not here, and neither are its learning rates by data set. The settings are in common.sh,
# and HEADS="no yes".
# Of the paper's ten data sets these seven are here; its CUB-200, NABirds and Stanford Dogs are not.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=cifar10 cifar100 dtd flowers102 food101 svhn gtsrb}"
: "${NETWORKS:=resnet50_v1 timm:vit_base_patch16_224.augreg_in1k timm:vit_base_patch16_224.augreg_in21k}"
: "${METHODS:=linear_probing}"
: "${HEADS=no yes}"
: "${SEEDS:=7 8 9}"

for dataset in $DATASETS; do
    for network in $NETWORKS; do
        methods cnn --network "$network" --dataset "$dataset"
        for head in $HEADS; do
            head_flag=()
            [[ $head == yes ]] && head_flag=(--head)
            METHODS=dam_vp methods cnn --network "$network" --dataset "$dataset" "${head_flag[@]}"
        done
    done
done
summary
