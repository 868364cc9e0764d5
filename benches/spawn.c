/* Starts programs for run.py and says what each cost. Python would add more to a call of half a millisecond than the
 * call itself takes. It also must be small: a child's peak memory counts from the vfork, when it still shares ours.
 *
 * Reads requests from standard input, fields ended by a zero byte: the file to give as standard input, the file for
 * standard output (and error); environment settings up to an empty field; the command's words up to an empty field.
 * Answers each with a line of JSON: exit status, wall clock in ns, user and system time in us, peak memory in kB. The
 * last three include all children the command waited for.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FIELDS 64

static FILE *requests;

/* An empty string at the end of the input too: a list that is cut off ends there. */
static char *field(void)
{
    char *text = NULL;
    size_t room = 0;
    if (getdelim(&text, &room, 0, requests) < 0) exit(0);
    return text;
}

static void list(char **into)
{
    int n = 0;
    while (*(into[n] = field())) {
        if (++n == FIELDS) exit(2);
    }
    into[n] = NULL;
}

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long long microseconds(struct timeval t) { return t.tv_sec * 1000000LL + t.tv_usec; }

/* The descriptors are put in place before the clock starts: a runtime has them at hand as well. */
static void redirect(const char *path, int flags, int onto)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);
    if (fd < 0 || dup2(fd, onto) < 0) perror(path), exit(2);
    close(fd);
}

int main(void)
{
    /* Our own ends, out of the children's way. */
    int answers = fcntl(1, F_DUPFD_CLOEXEC, 10);
    requests = fdopen(fcntl(0, F_DUPFD_CLOEXEC, 10), "r");
    for (;;) {
        char *in = field(), *out = field(), *env[FIELDS + 1], *argv[FIELDS + 1];
        list(env);
        list(argv);
        redirect(in, O_RDONLY, 0);
        redirect(out, O_WRONLY | O_CREAT | O_TRUNC, 1);
        dup2(1, 2);

        long long start = now();
        pid_t child = vfork();
        if (child == 0) {
            execve(argv[0], argv, env);
            _exit(127);
        }
        int status = 0;
        struct rusage use;
        if (child < 0 || wait4(child, &status, 0, &use) < 0) return 2;
        long long wall = now() - start;

        dprintf(answers, "{\"status\":%d,\"wall_ns\":%lld,\"user_us\":%lld,\"sys_us\":%lld,\"peak_kb\":%ld}\n",
                WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), wall, microseconds(use.ru_utime),
                microseconds(use.ru_stime), use.ru_maxrss);
        /* What was read for this request is not freed: a run makes some thousands of them. */
    }
}
