#!/usr/bin/env bash
# A real Slurm cluster on one Debian machine: a controller and four nodes with 4 CPUs and 2 fake GPUs, on loopback.
#
#   slurm/trial_cluster.sh up                   start the cluster, as root
#   eval "$(slurm/trial_cluster.sh env)"        make sbatch, squeue and hpc-jepa of this shell use it
#   slurm/trial_cluster.sh status               show nodes and jobs
#   slurm/trial_cluster.sh down                 kill all jobs and daemons, remove the folder
#
# Faults of real clusters, on demand (nodes are called 127.0.0.1 to 127.0.0.4):
#   kill-node NODE                              the node dies, with everything on it
#   kill-slurmd NODE                            its daemon dies; tasks continue, but Slurm believes them dead
#   start-node NODE                             the node comes back
#   kill-controller                             nothing is scheduled, Slurm commands time out
#   start-controller                            the controller comes back with its saved state
#
# TRIAL_CLUSTER   folder of all files (default /tmp/hpc-jepa-trial)
# TRIAL_PORT      first of the five ports it listens on (default 16817)
set -euo pipefail

ROOT=$(realpath -m "${TRIAL_CLUSTER:-/tmp/hpc-jepa-trial}")
PORT=${TRIAL_PORT:-16817}
NODES=(127.0.0.1 127.0.0.2 127.0.0.3 127.0.0.4) # addresses, because launchers pass them to ranks
TIMEOUT=20                                     # seconds
export SLURM_CONF=$ROOT/etc/slurm.conf
export PATH=$PATH:/usr/sbin:/sbin

main() {
  case ${1:-} in
    up | down | status) "$1" ;;
    env) echo "export SLURM_CONF=$SLURM_CONF" ;;
    kill-node) check_node "${2:-}" && kill_node "$2" ;;
    kill-slurmd) check_node "${2:-}" && kill_daemon "$2" ;;
    start-node) check_node "${2:-}" && start_node "$2" ;;
    kill-controller) kill_daemon controller ;;
    start-controller) start_controller ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \?//;p}' "$0" && exit 2 ;;
  esac
}

up() {
  check_machine
  trap 'tail -n 5 "$ROOT"/log/* >&2; down' EXIT # until the cluster is up
  mkdir -p "$ROOT"/{etc,munge,state,spool,pid,log,dev}
  chmod 755 "$ROOT" "$ROOT/munge"
  mknod "$ROOT/dev/nvidia0" c 1 3 # GPUs must be devices; these are /dev/null
  mknod "$ROOT/dev/nvidia1" c 1 3
  configure
  (umask 077 && head -c 128 /dev/urandom >"$ROOT/munge/key")
  # --force: even if a folder above the socket is not world-readable
  munged --force --key-file="$ROOT/munge/key" --socket="$ROOT/munge/socket" --pid-file="$ROOT/pid/munged" \
    --log-file="$ROOT/log/munged" --seed-file="$ROOT/munge/seed"
  start_controller
  for node in "${NODES[@]}"; do start_node "$node"; done
  wait_until "four idle nodes" all_idle
  trap - EXIT
}

down() {
  for pid_file in "$ROOT"/pid/*; do
    [[ $pid_file == */munged || ! -e $pid_file ]] || kill_daemon "${pid_file##*/}"
  done
  for node in "${NODES[@]}"; do kill_steps "$node"; done
  [[ ! -e $ROOT/pid/munged ]] || kill_daemon munged
  rm -rf "$ROOT"
}

status() {
  timeout "$TIMEOUT" scontrol ping
  timeout "$TIMEOUT" sinfo --Node --partition=main --format="%N %T %C %G"
  timeout "$TIMEOUT" squeue --array
}

start_controller() {
  slurmctld -f "$SLURM_CONF"
  wait_until "the controller" controller_answers
}

# Processes of a node are identified by SLURM_CONF, the path of the node's own configuration, in their environment.
start_node() {
  ln -sfn etc "$ROOT/$1"
  SLURM_CONF=$ROOT/$1/slurm.conf slurmd -N "$1"
  wait_until "the daemon of $1" test -e "$ROOT/pid/$1"
}

kill_node() {
  kill_daemon "$1"
  kill_steps "$1"
}

kill_daemon() {
  [[ -e $ROOT/pid/$1 ]] || fail "$1: not running; see: slurm/trial_cluster.sh status"
  local pid
  pid=$(<"$ROOT/pid/$1")
  kill -KILL "$pid" 2>/dev/null || true
  wait_until "the end of process $pid" gone "$pid"
  rm "$ROOT/pid/$1"
}

# Repeated, because a killed process may have started another one.
kill_steps() {
  local marked
  while marked=$(marked_by "$1") && [[ -n $marked ]]; do
    xargs kill -KILL <<<"$marked" 2>/dev/null || true
  done
}

marked_by() {
  { grep -lzsx "SLURM_CONF=$ROOT/$1/slurm.conf" /proc/[0-9]*/environ || true; } | tr -dc '0-9\n'
}

check_machine() {
  [[ $EUID -eq 0 ]] || fail "run as root: only daemons of root can start jobs"
  for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || fail "$program: not found; apt-get install slurm-wlm munge"
  done
  [[ ! -e $ROOT ]] || fail "$ROOT: exists; remove that cluster (down), or set TRIAL_CLUSTER and TRIAL_PORT"
  for port in $(seq "$PORT" $((PORT + ${#NODES[@]}))); do
    ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || fail "port $port: in use; set TRIAL_PORT"
  done
}

check_node() {
  [[ " ${NODES[*]} " == *" ${1:-none} "* ]] || fail "unknown node '$1'; nodes: ${NODES[*]}"
}

wait_until() {
  local description=$1 deadline=$((SECONDS + TIMEOUT))
  until "${@:2}"; do
    ((SECONDS < deadline)) || fail "$description: not within $TIMEOUT s; see $ROOT/log"
    sleep 0.1
  done
}

controller_answers() { timeout 2 scontrol ping 2>/dev/null | grep -q "is UP"; }
all_idle() { [[ $(timeout 2 sinfo -h --Node --partition=main --states=idle | wc -l) -eq ${#NODES[@]} ]]; }
gone() { ! grep -qs "^State:[[:space:]][^ZX]" "/proc/$1/status"; } # a zombie counts as gone

fail() {
  echo "error: $*" >&2
  exit 1
}

configure() {
  local host
  host=$(hostname -s)
  echo "NodeName=127.0.0.[1-4] Name=gpu File=$ROOT/dev/nvidia[0-1]" >"$ROOT/etc/gres.conf"
  echo "CgroupPlugin=cgroup/v1" >"$ROOT/etc/cgroup.conf"
  cat >"$ROOT/etc/slurm.conf" <<END
ClusterName=trial
# Log files are named by job id: do not reuse the ids of an earlier cluster.
FirstJobId=$(($(date +%s) % 50000000 + 1000))
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job starts after its last credential has expired: 120 s by default.
AuthInfo=socket=$ROOT/munge/socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool/%n
SlurmctldPidFile=$ROOT/pid/controller
SlurmdPidFile=$ROOT/pid/%n
SlurmctldLogFile=$ROOT/log/controller
SlurmdLogFile=$ROOT/log/%n
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
# Nodes have more cores than the machine.
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
EnforcePartLimits=ALL
GresTypes=gpu
MaxArraySize=2001
MinJobAge=3600
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmctldTimeout=10
SlurmdTimeout=5
KillWait=5
MessageTimeout=5
MailProg=/bin/true
NodeName=127.0.0.[1-4] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((PORT + 1))-$((PORT + 4))] CPUs=4 RealMemory=4000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=1-0 PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=1-0 PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=high Nodes=ALL MaxTime=1-0 PriorityTier=100 PreemptMode=OFF
END
}

main "$@"
