/* A Packet Monitor that is none, for the test's prefix alone: the functions and structures of
 * https://learn.microsoft.com/en-us/windows/win32/pktmon/pktmon-reference, with one adapter, whose MAC is in FAKE_MAC,
 * and FAKE_FRAMES numbered frames on it, which it shows as the real one does: each at two edges of the adapter, some
 * as dropped besides, some of another kind, and with losses of its own that it declares. */
#include <windows.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __declspec(dllexport)
typedef struct { void *context; void *on_event; void (CALLBACK *on_data)(void *, const void *); UINT16 buffers, truncation; } configuration;
typedef struct { const void *data; UINT32 data_bytes, metadata_at, packet_at, packet_bytes, missed_writing, missed_reading; } descriptor;
#pragma pack(push, 1)
typedef struct { UINT64 group; UINT16 count, appearance, direction, type, component, edge, reserved; UINT32 reason, location; UINT16 processor; UINT64 time; } metadata;
#pragma pack(pop)
typedef struct { UINT32 kind; WCHAR name[64], text[128]; UINT32 id, second, parent, present; UINT32 pad; BYTE detail[16]; } source;

static configuration stream;
static volatile LONG active, attached, sources;
static HANDLE thread;

static int number_of(const char *name)
{
    char text[32] = "0";
    GetEnvironmentVariableA(name, text, sizeof text);
    return atoi(text);
}

static void show(int n, int edge, int type, int reason, int missed)
{
    BYTE blob[sizeof(metadata) + 200];
    metadata *head = (metadata *)blob;
    BYTE *frame = blob + sizeof(metadata);
    FILETIME now;
    memset(blob, 0, sizeof blob);
    GetSystemTimeAsFileTime(&now);
    head->direction = n % 2 ? 3 : 4;
    head->type = type;
    head->component = 11;
    head->edge = edge;
    head->reason = reason;
    head->time = ((UINT64)now.dwHighDateTime << 32) | now.dwLowDateTime;
    memcpy(frame, "\2\0\0\0\0\1\2\0\0\0\0\2\x08\0" "\x45\0\0\x64\0\0\x40\0\x40\x11\0\0" "\x0a\x63\0\2\x0a\x63\0\1" "\x23\x28\x23\x28\0\x50\0\0", 42);
    frame[18] = n >> 8; frame[19] = n;
    int length = 42 + sprintf((char *)frame + 42, "thymus-rig %d ", n);
    length = length < 114 ? 114 : length;
    descriptor all = { blob, sizeof(metadata) + length, 0, sizeof(metadata), length, missed, 0 };
    stream.on_data(stream.context, &all);
}

static DWORD WINAPI feed(void *unused)
{
    int frames = number_of("FAKE_FRAMES");
    for (int n = 0; n < frames && active; n++) {
        show(n, 5, 1, 0, n % 100 == 50 ? 3 : 0);
        show(n, 9, 1, 0, 0);
        if (n % 10 == 0) show(n, 5, 1, 21, 0);
        if (n % 250 == 0) show(n, 5, 2, 0, 0);
        if (n % 100 == 0) Sleep(5);
    }
    return 0;
}

EXPORT HRESULT WINAPI PacketMonitorInitialize(UINT32 version, void *reserved, void **handle) { *handle = (void *)1; return version == 0x10000 ? S_OK : E_FAIL; }
EXPORT void WINAPI PacketMonitorUninitialize(void *handle) {}
EXPORT HRESULT WINAPI PacketMonitorEnumDataSources(void *handle, UINT32 kind, BOOLEAN hidden, SIZE_T room, SIZE_T *needed, BYTE *list)
{
    char text[32] = "";
    unsigned mac[6] = { 0 };
    *needed = 24 + 2 * sizeof(source);
    if (sizeof(source) != 424 || kind != 1 || hidden) return E_INVALIDARG;
    if (room < *needed) return HRESULT_FROM_WIN32(ERROR_INSUFFICIENT_BUFFER);
    memset(list, 0, *needed);
    *(UINT32 *)list = 2;
    source *all = (source *)(list + 24);
    ((source **)list)[1] = &all[0];
    ((source **)list)[2] = &all[1];
    all[0].id = 10; all[0].present = 8; all[0].detail[5] = 77;
    all[1].id = 11; all[1].present = 8;
    GetEnvironmentVariableA("FAKE_MAC", text, sizeof text);
    sscanf(text, "%x:%x:%x:%x:%x:%x", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]);
    for (int n = 0; n < 6; n++) all[1].detail[n] = mac[n];
    return S_OK;
}
EXPORT HRESULT WINAPI PacketMonitorCreateLiveSession(void *handle, const WCHAR *name, void **session) { *session = (void *)2; return name[0] ? S_OK : E_INVALIDARG; }
EXPORT void WINAPI PacketMonitorCloseSessionHandle(void *session) {}
EXPORT HRESULT WINAPI PacketMonitorAddSingleDataSourceToSession(void *session, const source *one) { sources += one->id == 11; return one->id == 11 ? S_OK : E_INVALIDARG; }
EXPORT HRESULT WINAPI PacketMonitorCreateRealtimeStream(void *handle, const configuration *given, void **out)
{
    if (given->buffers < 1 || given->buffers > 10 || given->truncation > 9000) return E_INVALIDARG;
    stream = *given;
    *out = (void *)3;
    return S_OK;
}
EXPORT void WINAPI PacketMonitorCloseRealtimeStream(void *out)
{
    active = 0;
    if (thread) WaitForSingleObject(thread, INFINITE);
}
EXPORT HRESULT WINAPI PacketMonitorAttachOutputToSession(void *session, void *out) { attached = 1; return S_OK; }
EXPORT HRESULT WINAPI PacketMonitorSetSessionActive(void *session, BOOLEAN on)
{
    if (!attached || sources != 1) return E_UNEXPECTED;
    active = on;
    if (on) thread = CreateThread(NULL, 0, feed, NULL, 0, NULL);
    return S_OK;
}
