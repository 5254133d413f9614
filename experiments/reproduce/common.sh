# The scripts beside this file use it, one script a table. Each calls `run` or `methods` in its loops and ends with
# `summary`. These settings may stand before a script's name:
#
#     DATASETS="dtd flowers102" SEEDS=7 EPOCH=2 ./ilm_vp_cnn.sh    a part of the table; NETWORKS, METHODS likewise
#     DRY_RUN=1     print the commands, to be typed in the repository's root, and run none
#     JOBS=4        4 runs at a time, distributed over the visible GPUs (on the CPU, set OMP_NUM_THREADS as well)
#     FLAGS="--precision float32"    flags for every experiment, after the loop's own; paths are relative to the root
#     PYTHON=python3.12              the interpreter
#
# Download the data sets first, with tools/prepare_data.py. A run's output goes to a file in results_path/logs. If you
# type the same command again, it skips finished runs and continues interrupted ones. The exit status is 1 if any run
# failed, 130 after Ctrl-C.
# shellcheck shell=bash

refuse() {
    echo "$*" >&2
    exit 2
}
[ "${BASH_VERSINFO[0]}${BASH_VERSINFO[1]}" -ge 44 ] ||
    refuse "$0 needs bash 4.4 or newer; this is $BASH_VERSION. On macOS: brew install bash, then type: bash $0"
(($#)) && refuse "$0 takes no arguments. Settings stand before its name: DATASETS=dtd DRY_RUN=1 $0"
for name in DATASET SEED METHOD NETWORK; do
    [[ -v $name && ! -v ${name}S ]] && refuse "$name is set. The setting is called ${name}S."
done
set -u
: "${PYTHON:=python}" "${JOBS:=1}" "${EPOCH:=}" "${FLAGS:=}" "${DRY_RUN:=}"
[[ $DRY_RUN == 0 ]] && DRY_RUN=
[[ $JOBS =~ ^[1-9][0-9]*$ ]] || refuse "JOBS=$JOBS: how many runs at a time, 1 or more."
words=$(printf %s "$FLAGS" | xargs printf '%s\n') || refuse "FLAGS=$FLAGS: its quotes do not match."
[[ $words ]] && mapfile -t flags <<<"$words" || flags=()

# EVP's 12 data sets
# shellcheck disable=SC2034 # for the scripts
evp_datasets="cifar100 cifar10 flowers102 food101 eurosat sun397 ucf101 svhn oxfordpets dtd resisc45 clevr"

# data_path and results_path are read from cfg.py in this directory, since the runs start in another one, the root.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd) || exit 2
[[ $PYTHON == [!/]*/* ]] && PYTHON=$PWD/$PYTHON
paths='import runpy, sys; cfg = runpy.run_path(sys.argv[1]); print(cfg["data_path"], cfg["results_path"], sep="\n")'
paths=$("$PYTHON" -c "$paths" "$root/cfg.py") ||
    refuse "PYTHON=$PYTHON does not read cfg.py. Set PYTHON to an interpreter, or activate its environment."
export VP_DATA_PATH="${paths%$'\n'*}" VP_RESULTS_PATH="${paths#*$'\n'}" TQDM_DISABLE=1 # no progress bars in files
cd "$root" || exit 2

if [[ -v CUDA_VISIBLE_DEVICES ]]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
else
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -x '[0-9][0-9]*')
fi
declare -A count=([done]=0 [skipped]=0 [failed]=0)
pids=() commands=() logs=() failed=() # the first three have one entry for each slot in use; each slot has its GPU

run() { # run SCRIPT FLAGS...: prints one command, or starts it once a slot is free
    local command=("$PYTHON" "$@") line log slot=0
    [[ -f $1 ]] || refuse "There is no $1. METHODS are names of its folder: $(cd "${1%/*}" && echo *.py)"
    if [[ $1 == experiments/* ]]; then
        [[ $EPOCH && $1 != */zero_shot.py ]] && command+=(--epoch "$EPOCH")
        command+=("${flags[@]}")
    fi
    printf -v line '%q ' "${command[@]}"
    [[ $DRY_RUN ]] && echo "${line% }" && return
    while tell; ((${#pids[@]} == JOBS)); do wait -n; done
    while [[ -v pids[slot] ]]; do ((slot += 1)); done
    ((${#gpus[@]})) && export CUDA_VISIBLE_DEVICES="${gpus[slot % ${#gpus[@]}]}"
    log="${command[*]:1}" log=${log#experiments/} log=${log// --/_} log=${log//[^[:alnum:].=_-]/-}
    ((${#log} > 200)) && log=${log: -200} # file names end at 255
    mkdir -p "$VP_RESULTS_PATH/logs" || exit 2
    commands[slot]=${line% } logs[slot]=$VP_RESULTS_PATH/logs/$log.log
    set -m # a process group of its own: Ctrl-C reaches it only through stop()
    "${command[@]}" >"${logs[slot]}" 2>&1 </dev/null &
    pids[slot]=$!
    set +m
}

methods() { # methods cnn|clip FLAGS...: runs each of METHODS with each of SEEDS
    local folder=$1 method seed
    shift
    for method in $METHODS; do
        for seed in $SEEDS; do
            run "experiments/$folder/$method.py" "$@" --seed "$seed"
        done
    done
}

tell() { # prints a status line for each run that has ended, and frees its slot
    local running slot code status detail
    running=$'\n'$(jobs -rp)$'\n'
    for slot in "${!pids[@]}"; do
        [[ $running == *$'\n'${pids[slot]}$'\n'* ]] && continue
        wait "${pids[slot]}"
        code=$?
        if ((code)); then
            status=failed failed+=("${commands[slot]}")
            detail="exit status $code, $(grep -a . "${logs[slot]}" | tail -n 3 | paste -sd ' ') (all of it: ${logs[slot]})"
        else # evaluate.py prints a loss, too; a run that was finished before prints its result, but no epochs
            detail=$(awk '(/^Test accuracy/ && !told++) || /^mean / { $1 = $1; print }' "${logs[slot]}")
            status=skipped
            grep -Eaq $'(^|\r)(epoch|no training|Continuing) |: loss ' "${logs[slot]}" && status="done"
        fi
        ((count[$status] += 1))
        printf '%(%H:%M:%S)T %-7s %s: %s\n' -1 "$status" "${commands[slot]}" "${detail//$'\n'/; }"
        unset "pids[slot]"
    done
}

settle() { # waits for every run under way
    while tell; ((${#pids[@]})); do wait -n; done
}

summary() {
    [[ $DRY_RUN ]] && exit 0
    settle
    echo "${count[done]} done, ${count[skipped]} skipped, ${count[failed]} failed. Output: $VP_RESULTS_PATH/logs"
    ((count[failed])) && printf 'failed: %s\n' "${failed[@]}" && exit 1
    exit 0
}

stop() { # stop SIGNAL: passes the signal to the runs, and waits until they have saved their state
    trap 'signal KILL' INT TERM HUP # if Ctrl-C is pressed again
    echo "Stopping the runs under way ..." >&2
    signal "$1"
    wait
    echo "Stopped. To continue, type the same command again: finished runs are skipped, interrupted ones continue." >&2
    exit 130
}

signal() {
    for pid in $(jobs -rp); do kill "-$1" -- "-$pid"; done
}

trap 'stop INT' INT
trap 'stop TERM' TERM HUP
