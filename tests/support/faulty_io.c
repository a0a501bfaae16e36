/* Makes a file system unreliable: a library for LD_PRELOAD whose wrappers fail, or wait, at random
 * calls below one folder. It reaches Python, TensorStore and array_record alike, since all of them
 * call libc. Everything works as usual until `faults_start`.
 *
 *     cc -shared -fPIC -O1 -o faulty_io.so faulty_io.c -ldl -lpthread
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NONE, IO, STALE, FULL, SLOW, KINDS };
enum { READS = 1, WRITES = 2 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static volatile int armed;
static char root[PATH_MAX];
static size_t root_length;
static uint64_t state;
static double rate, burst_rate;
static int burst, burst_kind;
static char burst_path[PATH_MAX];
static int counts[KINDS];
static char record[1 << 20];
static size_t record_length;

static double uniform(void) { /* xorshift64* */
  state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
  return (double)((state * 0x2545F4914F6CDD1DULL) >> 11) / 9007199254740992.0;
}

/* Faults below the folder from now on: at each call with probability `each`, of which the share
 * `bursts` lasts for the next eight calls on the same file, which outlives any retries. */
void faults_start(const char *folder, uint64_t seed, double each, double bursts) {
  pthread_mutex_lock(&mutex);
  snprintf(root, sizeof root, "%s/", folder);
  root_length = strlen(root);
  state = seed * 0x9E3779B97F4A7C15ULL + 1;
  rate = each, burst_rate = bursts, burst = 0;
  memset(counts, 0, sizeof counts);
  record_length = 0, record[0] = 0;
  armed = 1;
  pthread_mutex_unlock(&mutex);
}

void faults_stop(void) { armed = 0; }

/* Injections since `faults_start`: EIO, ESTALE, ENOSPC, slow calls. */
void faults_counts(int found[4]) { memcpy(found, counts + 1, 4 * sizeof(int)); }

/* A line for each of them. */
const char *faults_record(void) { return record; }

static int draw(int how, const char *call, const char *path) {
  static const char *names[] = {"", "EIO", "ESTALE", "ENOSPC", "slow"};
  int kind = NONE;
  if (strncmp(path, root, root_length)) return NONE;
  pthread_mutex_lock(&mutex);
  if (burst && !strcmp(path, burst_path)) {
    burst--, kind = burst_kind;
  } else if (uniform() < rate) {
    double which = uniform();
    kind = how == READS ? (which < 0.4 ? IO : which < 0.7 ? STALE : SLOW)
                        : (which < 0.4 ? IO : which < 0.9 ? FULL : SLOW);
    if (kind != SLOW && uniform() < burst_rate) {
      burst = 8, burst_kind = kind;
      snprintf(burst_path, sizeof burst_path, "%s", path);
    }
  }
  if (kind) {
    counts[kind]++;
    if (record_length + PATH_MAX < sizeof record)
      record_length += sprintf(record + record_length, "%s %s %s\n", names[kind], call,
                               path + root_length);
  }
  pthread_mutex_unlock(&mutex);
  return kind;
}

/* Returns whether the call is to fail, with errno set. */
static int fails(int how, const char *call, const char *path) {
  static const int numbers[] = {0, EIO, ESTALE, ENOSPC};
  int kind = draw(how, call, path);
  if (kind == SLOW) usleep(20000);
  if (kind == NONE || kind == SLOW) return 0;
  errno = numbers[kind];
  return 1;
}

static const char *path_of(int fd, char *buffer) {
  char link[64];
  ssize_t length;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  length = readlink(link, buffer, PATH_MAX - 1);
  buffer[length < 0 ? 0 : length] = 0;
  return buffer;
}

static const char *path_at(int fd, const char *name, char *buffer) {
  size_t length;
  if (fd == AT_FDCWD || name[0] == '/') return name;
  path_of(fd, buffer);
  length = strlen(buffer);
  snprintf(buffer + length, PATH_MAX - length, "/%s", name);
  return buffer;
}

#define REAL(type, name, ...)                        \
  static type (*real)(__VA_ARGS__);                  \
  if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define OPENED(flags) ((flags) & (O_CREAT | O_TRUNC) ? WRITES : READS)
#define OPEN(name)                                                     \
  int name(const char *path, int flags, ...) {                         \
    REAL(int, name, const char *, int, ...);                           \
    mode_t mode = 0;                                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {                               \
      va_list rest;                                                    \
      va_start(rest, flags), mode = va_arg(rest, mode_t), va_end(rest); \
    }                                                                  \
    if (armed && fails(OPENED(flags), "open", path)) return -1;        \
    return real(path, flags, mode);                                    \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                   \
  int name(int at, const char *path, int flags, ...) {                 \
    REAL(int, name, int, const char *, int, ...);                      \
    char buffer[2 * PATH_MAX];                                         \
    mode_t mode = 0;                                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {                               \
      va_list rest;                                                    \
      va_start(rest, flags), mode = va_arg(rest, mode_t), va_end(rest); \
    }                                                                  \
    if (armed && fails(OPENED(flags), "openat", path_at(at, path, buffer))) return -1; \
    return real(at, path, flags, mode);                                \
  }
OPENAT(openat)
OPENAT(openat64)

#define ON_FILE(type, name, how, parameters, ...)                      \
  type name parameters {                                               \
    static type(*real) parameters;                                     \
    char buffer[PATH_MAX];                                             \
    if (!real) real = (type(*) parameters)dlsym(RTLD_NEXT, #name);     \
    if (armed && fails(how, #name, path_of(fd, buffer))) return -1;    \
    return real(__VA_ARGS__);                                          \
  }
ON_FILE(ssize_t, read, READS, (int fd, void *to, size_t n), fd, to, n)
ON_FILE(ssize_t, pread, READS, (int fd, void *to, size_t n, off_t at), fd, to, n, at)
ON_FILE(ssize_t, pread64, READS, (int fd, void *to, size_t n, off64_t at), fd, to, n, at)
ON_FILE(ssize_t, write, WRITES, (int fd, const void *from, size_t n), fd, from, n)
ON_FILE(ssize_t, pwrite, WRITES, (int fd, const void *from, size_t n, off_t at), fd, from, n, at)
ON_FILE(ssize_t, pwrite64, WRITES, (int fd, const void *from, size_t n, off64_t at), fd, from, n, at)
ON_FILE(ssize_t, writev, WRITES, (int fd, const struct iovec *from, int n), fd, from, n)
ON_FILE(int, fsync, WRITES, (int fd), fd)
ON_FILE(int, fdatasync, WRITES, (int fd), fd)

#define ON_PATH(type, name, how, failed, parameters, ...)              \
  type name parameters {                                               \
    static type(*real) parameters;                                     \
    if (!real) real = (type(*) parameters)dlsym(RTLD_NEXT, #name);     \
    if (armed && fails(how, #name, path)) return failed;               \
    return real(__VA_ARGS__);                                          \
  }
ON_PATH(int, mkdir, WRITES, -1, (const char *path, mode_t mode), path, mode)
ON_PATH(int, rename, WRITES, -1, (const char *path, const char *to), path, to)
ON_PATH(int, unlink, WRITES, -1, (const char *path), path)
ON_PATH(int, rmdir, WRITES, -1, (const char *path), path)
ON_PATH(DIR *, opendir, READS, NULL, (const char *path), path)
ON_PATH(int, stat64, READS, -1, (const char *path, struct stat64 *to), path, to)
ON_PATH(int, stat, READS, -1, (const char *path, struct stat *to), path, to)
