/* Records what a process does to SQLite's files in one folder, so that a power cut can take back what was not synced.
 *
 * LD_PRELOAD=forget.so FORGET_FOLDER=/folder FORGET_LOG=/file <command>
 * One record an operation: kind, length of the name, offset or size, length of the data, name, data (see forgetful.py).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_FD 4096
#define SYNC_US 1500

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *names[MAX_FD]; /* of the files that are recorded, by descriptor */
static int log_fd = -2;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

struct __attribute__((packed)) head {
    char kind;
    uint16_t n_name;
    int64_t at;
    uint32_t n_data;
};

static int ends(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

static int is_ours(const char *path) {
    const char *folder = getenv("FORGET_FOLDER");
    struct stat found;
    if (!folder || !path || strncmp(path, folder, strlen(folder))) return 0;
    if (ends(path, ".db") || ends(path, ".db-wal") || ends(path, ".db-journal")) return 1;
    return !stat(path, &found) && S_ISDIR(found.st_mode);
}

static void note(char kind, const char *name, int64_t at, const void *data, uint32_t n_data) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (log_fd == -2) {
        const char *log = getenv("FORGET_LOG");
        REAL(int, "open", const char *, int, ...);
        log_fd = log ? real(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    }
    if (log_fd < 0) return;
    struct head head = {kind, (uint16_t)strlen(name), at, n_data};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)name, strlen(name)}, {(void *)data, n_data}};
    if (real(log_fd, parts, 3) < 0) abort();
}

static const char *name_of(int fd) { return fd >= 0 && fd < MAX_FD ? names[fd] : NULL; }

static int opened(int fd, const char *path, int is_new) {
    if (fd >= 0 && fd < MAX_FD) {
        free(names[fd]);
        names[fd] = strdup(path);
        if (is_new) note('o', path, 0, "", 0);
    }
    return fd;
}

#define OPEN(symbol) \
    int symbol(const char *path, int flags, ...) { \
        REAL(int, #symbol, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        int mode = flags & O_CREAT ? va_arg(more, int) : 0; \
        va_end(more); \
        if (!is_ours(path)) return real(path, flags, mode); \
        pthread_mutex_lock(&lock); \
        int is_new = (flags & O_CREAT) && access(path, F_OK) != 0; \
        int fd = opened(real(path, flags, mode), path, is_new); \
        pthread_mutex_unlock(&lock); \
        return fd; \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    REAL(int, "close", int);
    if (!name_of(fd)) return real(fd);
    pthread_mutex_lock(&lock);
    free(names[fd]);
    names[fd] = NULL;
    int answer = real(fd);
    pthread_mutex_unlock(&lock);
    return answer;
}

#define PWRITE(symbol) \
    ssize_t symbol(int fd, const void *data, size_t n, off_t at) { \
        REAL(ssize_t, #symbol, int, const void *, size_t, off_t); \
        if (!name_of(fd)) return real(fd, data, n, at); \
        pthread_mutex_lock(&lock); \
        ssize_t done = real(fd, data, n, at); \
        if (done > 0) note('w', names[fd], at, data, (uint32_t)done); \
        pthread_mutex_unlock(&lock); \
        return done; \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t write(int fd, const void *data, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!name_of(fd)) return real(fd, data, n);
    pthread_mutex_lock(&lock);
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t done = real(fd, data, n);
    if (done > 0) note('w', names[fd], at, data, (uint32_t)done);
    pthread_mutex_unlock(&lock);
    return done;
}

#define TRUNCATE(symbol) \
    int symbol(int fd, off_t size) { \
        REAL(int, #symbol, int, off_t); \
        if (!name_of(fd)) return real(fd, size); \
        pthread_mutex_lock(&lock); \
        int answer = real(fd, size); \
        if (!answer) note('t', names[fd], size, "", 0); \
        pthread_mutex_unlock(&lock); \
        return answer; \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

/* Nothing reaches the disk: what is durable is what the record says was synced. It takes as long as on an SD card. */
#define SYNC(symbol) \
    int symbol(int fd) { \
        REAL(int, #symbol, int); \
        if (!name_of(fd)) return real(fd); \
        usleep(SYNC_US); \
        pthread_mutex_lock(&lock); \
        note('s', names[fd], 0, "", 0); \
        pthread_mutex_unlock(&lock); \
        return 0; \
    }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    if (!is_ours(path)) return real(path);
    pthread_mutex_lock(&lock);
    int answer = real(path);
    if (!answer) note('d', path, 0, "", 0);
    pthread_mutex_unlock(&lock);
    return answer;
}
