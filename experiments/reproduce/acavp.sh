#!/usr/bin/env bash
# ACAVP (NeurIPS 2025) beside EVP, VP and linear probing on CLIP, and on an ImageNet network. The settings are in common.sh.
# The paper has 1000 epochs for all of them. Linear probing has its own number.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=$evp_datasets}"
: "${NETWORKS:=resnet50_v1}"
: "${METHODS:=acavp evp vp linear_probing}"
: "${SEEDS:=7 8 9}"

for dataset in $DATASETS; do
    methods clip --dataset "$dataset"
    for network in $NETWORKS; do
        METHODS=acavp methods cnn --network "$network" --dataset "$dataset"
    done
done
summary
