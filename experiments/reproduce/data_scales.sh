#!/usr/bin/env bash
# EVP with less data (Wu et al., TMLR 2024): CLIP trained on 1, 4, 7 and 10 % of each class. The settings are in
# common.sh, and FRACTIONS.
# It is not known for sure here which methods and data sets the paper shows. These are the methods of its main table
# that learn and keep CLIP frozen, and all data sets of that table.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=$evp_datasets}"
: "${METHODS:=vp evp linear_probing}"
: "${FRACTIONS:=0.01 0.04 0.07 0.1}"
: "${SEEDS:=42 43 44}"

for dataset in $DATASETS; do
    for fraction in $FRACTIONS; do
        methods clip --dataset "$dataset" --train-fraction "$fraction"
    done
done
summary
