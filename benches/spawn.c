/* Starts programs for run.py and says what each cost. Python would add more to a call of half a millisecond than the
 * call itself takes.
 *
 *     spawn         times each command
 *     spawn peak    measures its memory instead, as a tracer
 *
 * Reads requests from standard input, fields ended by a zero byte: the file to give as standard input, the file for
 * standard output (and error); environment settings up to an empty field; the command's words up to an empty field.
 * Answers each with a line of JSON: exit status; then wall clock in ns, user and system time in us, including all
 * children the command waited for; or the peak memory of the largest process in kB.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
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

static int code(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

static void time_it(int answers, char **argv, char **env)
{
    long long start = now();
    pid_t child = vfork();
    if (child == 0) {
        execve(argv[0], argv, env);
        _exit(127);
    }
    int status = 0;
    struct rusage use;
    if (child < 0 || wait4(child, &status, 0, &use) < 0) exit(2);
    long long wall = now() - start;
    dprintf(answers, "{\"status\":%d,\"wall_ns\":%lld,\"user_us\":%lld,\"sys_us\":%lld}\n", code(status), wall,
            microseconds(use.ru_utime), microseconds(use.ru_stime));
}

static long peak_of(pid_t pid)
{
    char path[32], line[256];
    long peak = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *status = fopen(path, "re");
    while (status && fgets(line, sizeof line, status)) sscanf(line, "VmHWM: %ld", &peak);
    if (status) fclose(status);
    return peak;
}

/* wait4's own figure is too low by up to 128 kB a CPU: the kernel counts pages in batches. /proc has the exact sum (from
 * Linux 6.17 on), so every process is stopped where it is about to exit, and looked at. */
static void weigh_it(int answers, char **argv, char **env)
{
    pid_t child = fork(), pid;
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execve(argv[0], argv, env);
        _exit(127);
    }
    int status = 0, result = 2, followed = 0;
    long peak = 0;
    while ((pid = waitpid(-1, &status, __WALL)) > 0) {
        if (!WIFSTOPPED(status)) {
            if (pid == child) result = code(status);
            continue;
        }
        if (!followed++)
            ptrace(PTRACE_SETOPTIONS, pid, 0,
                   PTRACE_O_TRACEEXIT | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE);
        if (status >> 16 == PTRACE_EVENT_EXIT) {
            long here = peak_of(pid);
            if (here > peak) peak = here;
        }
        /* The stops of tracing itself are not passed on; a signal is. */
        int sign = WSTOPSIG(status);
        ptrace(PTRACE_CONT, pid, 0, sign == SIGTRAP || sign == SIGSTOP ? 0 : sign);
    }
    dprintf(answers, "{\"status\":%d,\"peak_kb\":%ld}\n", result, peak);
}

int main(int argc, char **argv)
{
    int weigh = argc > 1 && !strcmp(argv[1], "peak");
    /* Our own ends, out of the children's way. */
    int answers = fcntl(1, F_DUPFD_CLOEXEC, 10);
    requests = fdopen(fcntl(0, F_DUPFD_CLOEXEC, 10), "r");
    for (;;) {
        char *in = field(), *out = field(), *env[FIELDS + 1], *words[FIELDS + 1];
        list(env);
        list(words);
        redirect(in, O_RDONLY, 0);
        redirect(out, O_WRONLY | O_CREAT | O_TRUNC, 1);
        dup2(1, 2);
        (weigh ? weigh_it : time_it)(answers, words, env);
        /* What was read for a request is not freed: a run makes some thousands of them. */
    }
}
