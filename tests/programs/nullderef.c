/* Dereferences NULL: ends by SIGSEGV. */
#include "common.h"

int main(void)
{
    printf("nullderef: about to\n");
    fflush(stdout);
    *(volatile int *)NULL = 1;
    printf("nullderef: survived\n");
    return 0;
}
