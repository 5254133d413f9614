#!/usr/bin/env bash
# BLM on ImageNet networks (Cai et al., NeurIPS 2024): BLM and BLM+ beside random, frequency and iterative label
# mapping; mean and standard deviation over three seeds. The settings are in common.sh.
# The released code trains all mappings in batches of 256, or 64 on dtd and oxfordpets. Here RLM, FLM and ILM have
# ILM-VP's own batches; FLAGS="--batch-size 256" changes that. Its ResNet-18 has the same weights; the other network of
# the paper has no option in its code.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=flowers102 dtd ucf101 food101 gtsrb eurosat oxfordpets stanfordcars sun397 svhn cifar10 cifar100}"
: "${NETWORKS:=resnet18 instagram}"
: "${METHODS:=rlm_vp flm_vp ilm_vp blm_vp blmp_vp}"
: "${SEEDS:=7 8 9}"

for dataset in $DATASETS; do
    for network in $NETWORKS; do
        methods cnn --network "$network" --dataset "$dataset"
    done
done
summary
