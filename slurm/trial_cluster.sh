#!/usr/bin/env bash
# A real Slurm cluster on one Debian machine: a controller and four nodes of 4 CPUs and 2 fake GPUs, all on loopback.
#
#   slurm/trial_cluster.sh up                   start it, as root
#   eval "$(slurm/trial_cluster.sh env)"        let sbatch, squeue and hpc-jepa of this shell find it
#   slurm/trial_cluster.sh status               nodes and jobs
#   slurm/trial_cluster.sh down                 end every job and daemon, remove the folder
#
# What happens to real clusters, at a moment of your choosing (nodes are called 127.0.0.1 to 127.0.0.4):
#   kill-node NODE                              it dies, with all that runs on it
#   kill-slurmd NODE                            its daemon dies; tasks run on, and Slurm believes them dead
#   start-node NODE                             it comes back
#   kill-controller                             nothing is scheduled, and no command of Slurm gets an answer
#   start-controller                            it comes back, and knows what it knew
#
# TRIAL_CLUSTER   folder of all its files (default /tmp/hpc-jepa-trial)
# TRIAL_PORT      first of the five ports it listens on (default 16817)
set -euo pipefail

ROOT=$(realpath -m "${TRIAL_CLUSTER:-/tmp/hpc-jepa-trial}")
PORT=${TRIAL_PORT:-16817}
NODES=(127.0.0.1 127.0.0.2 127.0.0.3 127.0.0.4) # addresses, because launchers give them to ranks to connect to
PATIENCE=20                                    # seconds
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
  trap 'tail -n 5 "$ROOT"/log/* >&2; down' EXIT # until all went well
  mkdir -p "$ROOT"/{etc,munge,state,spool,pid,log,dev}
  chmod 755 "$ROOT" "$ROOT/munge"
  mknod "$ROOT/dev/nvidia0" c 1 3 # Slurm wants GPUs to be devices; these are /dev/null
  mknod "$ROOT/dev/nvidia1" c 1 3
  configure
  (umask 077 && head -c 128 /dev/urandom >"$ROOT/munge/key")
  # --force: although others may not look into a folder above the socket
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
  timeout "$PATIENCE" scontrol ping
  timeout "$PATIENCE" sinfo --Node --partition=main --format="%N %T %C %G"
  timeout "$PATIENCE" squeue --array
}

start_controller() {
  slurmctld -f "$SLURM_CONF"
  wait_until "the controller" controller_answers
}

# Every process of a node is marked by the path of the node's own configuration in its environment.
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
  [[ -e $ROOT/pid/$1 ]] || fail "$1: does not run; look at: slurm/trial_cluster.sh status"
  local pid
  pid=$(<"$ROOT/pid/$1")
  kill -KILL "$pid" 2>/dev/null || true
  wait_until "the end of process $pid" gone "$pid"
  rm "$ROOT/pid/$1"
}

# One that is killed may just have started another.
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
  [[ $EUID -eq 0 ]] || fail "only daemons run by root can start jobs; run as root"
  for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || fail "$program: not found; apt-get install slurm-wlm munge"
  done
  [[ ! -e $ROOT ]] || fail "$ROOT: exists; take that cluster down, or set TRIAL_CLUSTER and TRIAL_PORT"
  for port in $(seq "$PORT" $((PORT + ${#NODES[@]}))); do
    ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || fail "port $port: in use; set TRIAL_PORT"
  done
}

check_node() {
  [[ " ${NODES[*]} " == *" ${1:-none} "* ]] || fail "node '$1': there are ${NODES[*]}"
}

wait_until() {
  local words=$1 deadline=$((SECONDS + PATIENCE))
  until "${@:2}"; do
    ((SECONDS < deadline)) || fail "$words: not within $PATIENCE s; $ROOT/log says more"
    sleep 0.1
  done
}

controller_answers() { timeout 2 scontrol ping 2>/dev/null | grep -q "is UP"; }
all_idle() { [[ $(timeout 2 sinfo -h --Node --partition=main --states=idle | wc -l) -eq ${#NODES[@]} ]]; }
gone() { ! grep -qs "^State:[[:space:]][^ZX]" "/proc/$1/status"; } # nobody may be there to reap it

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
# Logs are named by job ids: those of an earlier cluster must not come again.
FirstJobId=$(($(date +%s) % 50000000 + 1000))
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job starts when its last credential has expired: after 120 s where nothing is said.
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
# The nodes have more cores than the machine.
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
