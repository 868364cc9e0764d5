/* Rust's std names these symbols even with panic=abort, where nothing ever unwinds. Debian has no unwinder that
 * links with musl (libgcc_eh.a wants glibc's _dl_find_object, LLVM's libunwind.a wants __fprintf_chk), so here is
 * one that does nothing. It cannot be empty: at some optimisation levels the references survive to the link. */

#define END_OF_STACK 5 /* _URC_END_OF_STACK: "no (more) frames", the one answer that is never wrong */

int _Unwind_Backtrace(void) { return END_OF_STACK; }
int _Unwind_RaiseException(void) { return END_OF_STACK; }
int _Unwind_ForcedUnwind(void) { return END_OF_STACK; }
void _Unwind_Resume(void) { __builtin_trap(); }
void _Unwind_DeleteException(void) {}
unsigned long _Unwind_GetCFA(void) { return 0; }
unsigned long _Unwind_GetIP(void) { return 0; }
unsigned long _Unwind_GetIPInfo(void) { return 0; }
unsigned long _Unwind_GetLanguageSpecificData(void) { return 0; }
unsigned long _Unwind_GetRegionStart(void) { return 0; }
unsigned long _Unwind_GetTextRelBase(void) { return 0; }
unsigned long _Unwind_GetDataRelBase(void) { return 0; }
void _Unwind_SetGR(void) {}
void _Unwind_SetIP(void) {}
