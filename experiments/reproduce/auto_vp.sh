#!/usr/bin/env bash
# AutoVP (Tsao et al., ICLR 2024): its mappings FullyMap, FreqMap and IterMap, and its trainable scale, beside linear
# probing. The settings are in common.sh, and CHOICES="--mapping flm,--scale 0.5" (flags of auto_vp.py, separated by
# commas). The paper searches for the best choice on each data set; tools/tune.py does that, by validation accuracy.
# The paper's tables by data set are not known here. These are its data sets and networks that this repository has.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=svhn cifar10 cifar100 gtsrb eurosat flowers102 dtd ucf101 food101 oxfordpets stanfordcars sun397 abide}"
: "${NETWORKS:=resnet18 instagram}"
: "${METHODS:=linear_probing}"
: "${SEEDS:=7 8 9}"
IFS=, read -ra choices <<<"${CHOICES---mapping full,--mapping full --trainable-scale,--mapping flm,--mapping ilm}"

for dataset in $DATASETS; do
    for network in $NETWORKS; do
        methods cnn --network "$network" --dataset "$dataset"
        for choice in "${choices[@]}"; do
            read -ra words <<<"$choice"
            METHODS=auto_vp methods cnn --network "$network" --dataset "$dataset" "${words[@]}"
        done
    done
done
summary
