#!/usr/bin/env bash
# ILM-VP's table on what needs no download: photographs and a network from pip's packages, 5 epochs, three seeds
# (15 minutes on two quiet CPU cores). What can be set: common.sh.
: "${DATASETS:=pictures}" "${NETWORKS:=efficientnet_lite0}" "${EPOCH:=5}"
# shellcheck source=ilm_vp_cnn.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/ilm_vp_cnn.sh"
