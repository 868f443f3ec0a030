/* Records what a program writes to one file and its -wal, and when it syncs them, into a journal.
 *
 *   LD_PRELOAD=recorder.so RECORDED=/path/toril.db JOURNAL=/path/journal program ...
 *
 * A record is a header of four 64-bit integers, `kind file offset length`, and for a write its bytes. Kinds: 1 write,
 * 2 truncate (offset is the new length), 3 sync. Files: 0 the file, 1 its -wal. A write is recorded before it is done and
 * a sync after it has returned: whatever the journal calls synced is synced.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, TRUNCATE = 2, SYNC = 3 };

static int journal = -1;
static char recorded[2][4096];

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("RECORDED"), *to = getenv("JOURNAL");
  if (!path || !to) return;
  snprintf(recorded[0], sizeof recorded[0], "%s", path);
  snprintf(recorded[1], sizeof recorded[1], "%s-wal", path);
  journal = open(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int file_of(int fd) {
  char link[64], path[4096];
  if (journal < 0 || fd == journal) return -1;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return -1;
  path[length] = 0;
  for (int file = 0; file < 2; file++)
    if (!strcmp(path, recorded[file])) return file;
  return -1;
}

static void record(int64_t kind, int file, int64_t offset, int64_t length, const void *bytes) {
  int64_t header[4] = {kind, file, offset, length};
  struct iovec parts[2] = {{header, sizeof header}, {(void *)bytes, bytes ? (size_t)length : 0}};
  int saved = errno;
  if (syscall(SYS_writev, journal, parts, 2) != (long)(sizeof header + parts[1].iov_len)) abort();
  errno = saved;
}

#define REAL(type, name, ...) \
  static type (*real)(__VA_ARGS__); \
  if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define PWRITE(name, offset_type) \
  ssize_t name(int fd, const void *bytes, size_t length, offset_type offset) { \
    REAL(ssize_t, #name, int, const void *, size_t, offset_type); \
    int file = file_of(fd); \
    if (file >= 0) record(WRITE, file, offset, length, bytes); \
    return real(fd, bytes, length, offset); \
  }

#define FTRUNCATE(name, length_type) \
  int name(int fd, length_type length) { \
    REAL(int, #name, int, length_type); \
    int file = file_of(fd); \
    if (file >= 0) record(TRUNCATE, file, length, 0, NULL); \
    return real(fd, length); \
  }

#define SYNCING(name) \
  int name(int fd) { \
    REAL(int, #name, int); \
    int result = real(fd), file = file_of(fd); \
    if (file >= 0 && result == 0) record(SYNC, file, 0, 0, NULL); \
    return result; \
  }

PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)
SYNCING(fsync)
SYNCING(fdatasync)

ssize_t write(int fd, const void *bytes, size_t length) {
  REAL(ssize_t, "write", int, const void *, size_t);
  int file = file_of(fd);
  if (file >= 0) record(WRITE, file, lseek(fd, 0, SEEK_CUR), length, bytes);
  return real(fd, bytes, length);
}
