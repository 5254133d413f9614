#!/usr/bin/env bash
# Under corruption (EVP: Wu et al., TMLR 2024): CLIP prompted on CIFAR-10, then evaluated on CIFAR-10-C. An evaluation's
# line tells the clean accuracy and the means by severity; corruptions.json in the run's folder keeps all of them, for
# results_table.py --metric corruptions. What can be set: common.sh. To be downloaded before, and unpacked in data_path: CIFAR-10-C.tar, https://zenodo.org/records/2535967
# (with DATASETS="cifar10 cifar100" also CIFAR-100-C.tar, https://zenodo.org/records/3555552).
# Which methods the paper compares is not known for sure here. FLAGS that a run's folder is named by lead to no
# checkpoint; those of another CLIP go with CLIP, its name there.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=cifar10}" "${METHODS:=zero_shot ilm_tp_vp vp evp}" "${SEEDS:=42}" "${CLIP:=ViT-B-32-quickgelu-openai}"
declare -A epochs=([zero_shot]=0 [vp]=${EPOCH:-1000} [evp]=${EPOCH:-1000})

for part in train evaluate; do
    for dataset in $DATASETS; do for method in $METHODS; do for seed in $SEEDS; do
        trained=$VP_RESULTS_PATH/clip/$method/${CLIP}_${dataset}_seed${seed}_epoch${epochs[$method]:-${EPOCH:-200}}
        if [[ $part == train ]]; then
            run "experiments/clip/$method.py" --dataset "$dataset" --seed "$seed"
        elif [[ $DRY_RUN ]] || grep -qs '"status": "finished"' "$trained/result.json"; then  # else it has been told
            corrupted=$VP_DATA_PATH/CIFAR-${dataset#cifar}-C
            kept=$trained/corruptions.json
            run tools/evaluate.py --corruptions "$corrupted" --checkpoint "$trained/best.pth" --output "$kept"
        fi
    done; done; done
    settle
done
summary
