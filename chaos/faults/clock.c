/* The clocks of one process, as the page that CHAOS_CLOCK names says: shifted, or running at another
 * pace. Preloaded; without the variable, or with a page of zeros, the clocks are the machine's.
 *
 * The page is written by the harness alone (chaos/faults/clock.py). A reader may see one of its
 * fields before the others: a clock that is off for one call is what this is for.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct page {
    long long steady_ns; /* added to CLOCK_MONOTONIC, CLOCK_BOOTTIME and the like */
    long long wall_ns;   /* added to CLOCK_REALTIME */
    long long since_ns;  /* of CLOCK_MONOTONIC: from then on the pace counts */
    double gain;         /* seconds that the clocks gain in each second */
};

static const volatile struct page *page;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CHAOS_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *found = mmap(0, sizeof(struct page), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (found != MAP_FAILED)
        page = found;
}

static long long real_ns(clockid_t clock) {
    struct timespec now;
    syscall(SYS_clock_gettime, clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static long long gained_ns(void) {
    return page->gain ? (long long)((real_ns(CLOCK_MONOTONIC) - page->since_ns) * page->gain) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (failed || !page)
        return failed;
    long long more;
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
        more = page->wall_ns + gained_ns();
        break;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_BOOTTIME:
        more = page->steady_ns + gained_ns();
        break;
    default:
        return 0;
    }
    long long ns = now->tv_sec * 1000000000LL + now->tv_nsec + more;
    now->tv_sec = ns / 1000000000LL;
    now->tv_nsec = ns % 1000000000LL;
    return 0;
}

time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where)
        *where = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}
