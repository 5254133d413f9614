#!/usr/bin/env bash
# Every method on flowers102, gtsrb and dtd, with the learning rate that the validation images chose for
# efficientnet_lite0, batches of 128, 20 epochs, three seeds: most runs of docs/results.md, which has 30 epochs on dtd.
# About half an hour on one GPU with JOBS=15. The settings are in common.sh, and
#
#     SEARCH=1         instead, 4 epochs with three rates each, from which results_table.py --metric val --epochs 4 chooses
#     RATES=default    the rates of the scripts, which are the papers'
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=flowers102 gtsrb dtd}"
: "${NETWORKS:=efficientnet_lite0}"
: "${METHODS:=rlm_vp flm_vp ilm_vp blm_vp blmp_vp smm watermark_vp lor_vp fully_vp evp linear_probing}"
: "${SEEDS:=7 8 9}"
: "${SEARCH:=}" "${RATES:=chosen}"
: "${EPOCH:=20}"
[[ $SEARCH ]] && EPOCH=4 SEEDS=${SEEDS%% *}

declare -A tried=([lor_vp]="0.02 0.006 0.002" [evp]="70 20 7" [linear_probing]="0.1 0.03 0.01")
declare -A chosen=( # where it is not the script's default
    [rlm_vp flowers102]=0.003 [ilm_vp flowers102]=0.003 [smm flowers102]=0.001 [watermark_vp flowers102]=0.003
    [fully_vp flowers102]=0.003 [linear_probing flowers102]=0.01
    [ilm_vp gtsrb]=0.001 [ilm_vp-probabilities gtsrb]=0.003 [blmp_vp gtsrb]=0.003 [watermark_vp gtsrb]=0.003
    [fully_vp gtsrb]=0.01 [evp gtsrb]=20 [linear_probing gtsrb]=0.03
    [blmp_vp dtd]=0.001 [smm dtd]=0.001 [watermark_vp dtd]=0.001 [linear_probing dtd]=0.01
)

at() { # at NAME FLAGS...: the method with its rates; NAME may add a setting to the method's name
    local name=$1 lr rates
    shift
    rates=default
    [[ $RATES == chosen ]] && rates=${chosen[$name $dataset]:-default}
    [[ $SEARCH ]] && rates=${tried[$name]:-0.01 0.003 0.001}
    for lr in $rates; do
        [[ $lr == default ]] && lr=() || lr=(--lr "$lr")
        METHODS=${name%-*} methods cnn --network "$network" --dataset "$dataset" --batch-size 128 "${own[@]}" "${lr[@]}" "$@"
    done
}

all=$METHODS
for dataset in $DATASETS; do
    own=()
    [[ $dataset == gtsrb ]] && own=(--val-fraction 0.1) # it has no validation split
    for network in $NETWORKS; do
        for method in $all; do
            at "$method"
            [[ $method == ilm_vp ]] && at ilm_vp-probabilities --mapping-counts probabilities
        done
    done
done
summary
