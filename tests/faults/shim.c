/* Preloaded: system calls on chosen paths fail with a chosen error, and the clock of the process can be shifted.
 *
 * A rule (call, part of the path, errno, skip, count) lets `skip` matching calls pass and fails the `count` after them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define RULES 16
static struct { char call[16]; char path[128]; int error; int skip; int count; int hits; } rules[RULES];
static int used;
static long shift; /* seconds */

void fault_add(const char *call, const char *path, int error, int skip, int count) {
  int i = __atomic_load_n(&used, __ATOMIC_SEQ_CST);
  if (i == RULES) return;
  strncpy(rules[i].call, call, sizeof rules[i].call - 1);
  strncpy(rules[i].path, path, sizeof rules[i].path - 1);
  rules[i].error = error, rules[i].skip = skip, rules[i].count = count;
  __atomic_store_n(&used, i + 1, __ATOMIC_SEQ_CST);
}

int fault_hits(int rule) { return rules[rule].hits; }

void fault_clock(long seconds) { shift = seconds; }

/* Whether this call fails; sets errno. */
static int fails(const char *call, const char *path) {
  int all = __atomic_load_n(&used, __ATOMIC_SEQ_CST);
  for (int i = 0; i < all; i++) {
    if (strcmp(rules[i].call, call) || !strstr(path, rules[i].path)) continue;
    if (__atomic_fetch_sub(&rules[i].skip, 1, __ATOMIC_SEQ_CST) > 0) continue;
    if (__atomic_fetch_sub(&rules[i].count, 1, __ATOMIC_SEQ_CST) <= 0) continue;
    __atomic_fetch_add(&rules[i].hits, 1, __ATOMIC_SEQ_CST);
    errno = rules[i].error;
    return 1;
  }
  return 0;
}

static int has_rule(const char *call) {
  int all = __atomic_load_n(&used, __ATOMIC_SEQ_CST);
  for (int i = 0; i < all; i++)
    if (!strcmp(rules[i].call, call)) return 1;
  return 0;
}

static int file_fails(const char *call, int file) {
  if (!has_rule(call)) return 0;
  char link[64], path[PATH_MAX] = "";
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t size = readlink(link, path, sizeof path - 1);
  return size > 0 && fails(call, path);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define MODE mode_t mode = 0; if (flags & (O_CREAT | __O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

int open(const char *path, int flags, ...) { MODE REAL(open); return fails("open", path) ? -1 : real(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE REAL(open64); return fails("open", path) ? -1 : real(path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE REAL(openat); return fails("open", path) ? -1 : real(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE REAL(openat64); return fails("open", path) ? -1 : real(at, path, flags, mode); }
ssize_t read(int file, void *data, size_t size) { REAL(read); return file_fails("read", file) ? -1 : real(file, data, size); }
ssize_t pread(int file, void *data, size_t size, off_t at) { REAL(pread); return file_fails("read", file) ? -1 : real(file, data, size, at); }
ssize_t pread64(int file, void *data, size_t size, off64_t at) { REAL(pread64); return file_fails("read", file) ? -1 : real(file, data, size, at); }
ssize_t write(int file, const void *data, size_t size) { REAL(write); return file_fails("write", file) ? -1 : real(file, data, size); }
int fsync(int file) { REAL(fsync); return file_fails("fsync", file) ? -1 : real(file); }
int flock(int file, int operation);
int flock(int file, int operation) { REAL(flock); return file_fails("flock", file) ? -1 : real(file, operation); }
int rename(const char *from, const char *to) { REAL(rename); return fails("rename", from) ? -1 : real(from, to); }
int symlink(const char *to, const char *path) { REAL(symlink); return fails("symlink", path) ? -1 : real(to, path); }
int unlink(const char *path) { REAL(unlink); return fails("unlink", path) ? -1 : real(path); }
int unlinkat(int at, const char *path, int flags) { REAL(unlinkat); return fails("unlink", path) ? -1 : real(at, path, flags); }
int rmdir(const char *path) { REAL(rmdir); return fails("rmdir", path) ? -1 : real(path); }
int clock_gettime(clockid_t clock, struct timespec *now) {
  REAL(clock_gettime);
  int failed = real(clock, now);
  if (!failed && clock == CLOCK_REALTIME) now->tv_sec += shift;
  return failed;
}
time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
/* A client that stamps files with its own clock. */
int utimensat(int at, const char *path, const struct timespec times[2], int flags) {
  REAL(utimensat);
  const char *volatile name = path; /* NULL for a descriptor */
  if (name && fails("utimensat", name)) return -1;
  struct timespec now[2];
  if (!times && shift) {
    clock_gettime(CLOCK_REALTIME, &now[0]);
    now[1] = now[0];
    times = now;
  }
  return real(at, path, times, flags);
}
