/* A disk under one folder, between a program and libc: LD_PRELOAD this library.

DISK_ROOT  the folder, an absolute path without links
DISK_LOG   a file that gets every change below the folder, for a loss of power to be played later (see disks.py)
DISK_AT    the number of the change, counted from 0 in each process, that is struck, and
DISK_ERRNO   the error that it and all that follow fail with, or 0: the process is killed before it happens */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* libc's functions are looked up once: a process that is forked while a thread looks one up would wait for ever. */
#define FUNCTIONS(each) \
    each(fdatasync) each(fsync) each(ftruncate64) each(link) each(mkdir) each(open64) each(openat64) each(pwrite64) \
    each(renameat) each(unlinkat) each(write) each(writev)
#define DECLARE(name) static __typeof__(&name) real_##name;
#define LOOK_UP(name) real_##name = (__typeof__(&name))dlsym(RTLD_NEXT, #name);
#define REAL(name) (real_##name)
FUNCTIONS(DECLARE)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root;
static int log_file = -1, error;
static long strike = -1, changes;

static void hold(void) { pthread_mutex_lock(&lock); }
static void release(void) { pthread_mutex_unlock(&lock); }

static void look_up(void) {
    if (!REAL(open64)) { FUNCTIONS(LOOK_UP) }
}

__attribute__((constructor)) static void start(void) {
    look_up();
    pthread_atfork(hold, release, release);
    const char *at = getenv("DISK_AT"), *number = getenv("DISK_ERRNO"), *log = getenv("DISK_LOG");
    root = getenv("DISK_ROOT");
    if (at) strike = atol(at);
    if (number) error = atoi(number);
    if (log) log_file = REAL(open64)(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

/* The path below the root, or NULL. `path` is absolute, or beside the current folder. */
static const char *below(int folder, const char *path, char *buffer) {
    if (!root || !path) return NULL;
    char link[64];
    size_t length = 0;
    if (path[0] != '/') {
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        ssize_t count = readlink(link, buffer, PATH_MAX - 2);
        if (count < 0) return NULL;
        length = count;
        buffer[length++] = '/';
    }
    snprintf(buffer + length, PATH_MAX - length, "%s", path);
    size_t size = strlen(root);
    return strncmp(buffer, root, size) == 0 && (buffer[size] == '/' || !buffer[size]) ? buffer + size : NULL;
}

static const char *behind(int file, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t count = root ? readlink(link, buffer, PATH_MAX - 1) : -1;
    if (count < 0) return NULL;
    buffer[count] = 0;
    size_t size = strlen(root);
    return strncmp(buffer, root, size) == 0 && (buffer[size] == '/' || !buffer[size]) ? buffer + size : NULL;
}

/* Count a change; nonzero where it has to fail. */
static int struck(void) {
    if (strike < 0 || changes++ < strike) return 0;
    if (!error) kill(getpid(), SIGKILL);
    errno = error;
    return 1;
}

static uint64_t number_of(int file) {
    struct stat status;
    return fstat(file, &status) ? 0 : status.st_ino;
}

static void note(char what, uint64_t file, int64_t offset, const char *path, const char *to, const void *data, size_t size) {
    if (log_file < 0) return;
    struct __attribute__((packed)) { char what; uint64_t file; int64_t offset; uint32_t path, to, size; } head = {
        what, file, offset, path ? strlen(path) : 0, to ? strlen(to) : 0, size};
    struct iovec parts[] = {
        {&head, sizeof head}, {(void *)path, head.path}, {(void *)to, head.to}, {(void *)data, data ? size : 0}};
    if (REAL(writev)(log_file, parts, 4) < 0) abort();
}

static int opened(int folder, const char *path, int flags, mode_t mode, int at) {
    char buffer[PATH_MAX];
    look_up(); /* libraries open files before any constructor of this one */
    const char *name = flags & (O_CREAT | O_TRUNC) ? below(folder, path, buffer) : NULL;
    if (!name) return at ? REAL(openat64)(folder, path, flags, mode) : REAL(open64)(path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat status;
    int is_new = fstatat(folder, path, &status, 0) != 0, file = -1;
    if (!(is_new || flags & O_TRUNC) || !struck()) {
        file = REAL(openat64)(folder, path, flags, mode);
        if (file >= 0 && is_new) note('C', number_of(file), 0, name, NULL, NULL, 0);
        else if (file >= 0 && flags & O_TRUNC) note('T', number_of(file), 0, NULL, NULL, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return file;
}

#define MODE(flags) mode_t mode = 0; if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }
int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode, 0); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode, 0); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return opened(folder, path, flags, mode, 1); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return opened(folder, path, flags, mode, 1); }

static int64_t end_of_writing(int file) {
    struct stat status;
    if (fcntl(file, F_GETFL) & O_APPEND && !fstat(file, &status)) return status.st_size;
    return lseek(file, 0, SEEK_CUR);
}

/* Every change: outside of the root as it is; within, counted, done and noted, one at a time. */
#define CHANGE(inside, call, noted) \
    char buffer[PATH_MAX]; \
    look_up(); \
    if (!(inside)) return call; \
    pthread_mutex_lock(&lock); \
    __typeof__(call) result = -1; \
    if (!struck()) { result = call; int kept = errno; if (result >= 0) noted; errno = kept; } \
    pthread_mutex_unlock(&lock); \
    return result

ssize_t write(int file, const void *data, size_t size) {
    int64_t offset = 0;
    CHANGE(behind(file, buffer), (offset = end_of_writing(file), REAL(write)(file, data, size)),
           note('W', number_of(file), offset, NULL, NULL, data, result));
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    CHANGE(behind(file, buffer), REAL(pwrite64)(file, data, size, offset),
           note('W', number_of(file), offset, NULL, NULL, data, result));
}
ssize_t pwrite(int file, const void *data, size_t size, off_t offset) { return pwrite64(file, data, size, offset); }
ssize_t writev(int file, const struct iovec *parts, int count) {
    char buffer[PATH_MAX];
    if (!behind(file, buffer)) return REAL(writev)(file, parts, count);
    return count ? write(file, parts[0].iov_base, parts[0].iov_len) : 0; /* fewer bytes: the caller goes on */
}
int ftruncate64(int file, off64_t size) {
    CHANGE(behind(file, buffer), REAL(ftruncate64)(file, size), note('T', number_of(file), size, NULL, NULL, NULL, 0));
}
int ftruncate(int file, off_t size) { return ftruncate64(file, size); }
int fsync(int file) {
    CHANGE(behind(file, buffer), REAL(fsync)(file), note('S', number_of(file), 0, behind(file, buffer), NULL, NULL, 0));
}
int fdatasync(int file) {
    CHANGE(behind(file, buffer), REAL(fdatasync)(file), note('S', number_of(file), 0, behind(file, buffer), NULL, NULL, 0));
}

static int moved(int from_folder, const char *from, int to_folder, const char *to) {
    char second[PATH_MAX];
    const char *name = below(to_folder, to, second);
    CHANGE(name, REAL(renameat)(from_folder, from, to_folder, to),
           note('R', 0, 0, below(from_folder, from, buffer), name, NULL, 0));
}
int rename(const char *from, const char *to) { return moved(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int folder, const char *from, int to_folder, const char *to) { return moved(folder, from, to_folder, to); }
int renameat2(int folder, const char *from, int to_folder, const char *to, unsigned flags) {
    if (!flags) return moved(folder, from, to_folder, to);
    errno = EINVAL;
    return -1;
}
static int removed(int folder, const char *path, int flags) {
    const char *name;
    CHANGE(name = below(folder, path, buffer), REAL(unlinkat)(folder, path, flags), note('U', 0, 0, name, NULL, NULL, 0));
}
int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }
int unlinkat(int folder, const char *path, int flags) { return removed(folder, path, flags); }
int remove(const char *path) {
    struct stat status;
    return removed(AT_FDCWD, path, !lstat(path, &status) && S_ISDIR(status.st_mode) ? AT_REMOVEDIR : 0);
}
int mkdir(const char *path, mode_t mode) {
    const char *name;
    CHANGE(name = below(AT_FDCWD, path, buffer), REAL(mkdir)(path, mode), note('D', 0, 0, name, NULL, NULL, 0));
}
int link(const char *from, const char *to) {
    const char *name;
    char second[PATH_MAX];
    CHANGE(name = below(AT_FDCWD, to, second), REAL(link)(from, to),
           note('L', 0, 0, below(AT_FDCWD, from, buffer), name, NULL, 0));
}

/* What would change a file past these functions is refused, and programs take them instead. */
ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) { errno = ENOTSOCK; return -1; }
ssize_t sendfile(int to, int from, off_t *offset, size_t size) { errno = ENOTSOCK; return -1; }
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t size, unsigned flags) { errno = ENOSYS; return -1; }
