/* Rows of tables that programs print: the same on the host and in the microVM. */
#ifndef TABLE_H
#define TABLE_H

#include "common.h"

/* What a call gave, or its error. */
static inline void row(const char *name, long result)
{
    if (result < 0)
        printf("%-44s %s\n", name, strerror(errno));
    else
        printf("%-44s %ld\n", name, result);
    fflush(stdout);
}

/* What a wait said of a child. */
static inline void status(const char *name, int status)
{
    if (WIFEXITED(status))
        printf("%-44s exited %d\n", name, WEXITSTATUS(status));
    else if (WIFSIGNALED(status))
        printf("%-44s killed %d\n", name, WTERMSIG(status));
    else if (WIFSTOPPED(status))
        printf("%-44s stopped %d\n", name, WSTOPSIG(status));
    else if (WIFCONTINUED(status))
        printf("%-44s continued\n", name);
    fflush(stdout);
}

#endif
