/* A program of Windows that speaks once over TCP and stays a while: talk.exe ADDRESS PORT */
#include <winsock2.h>
#include <stdlib.h>

int main(int count, char **words)
{
    WSADATA data;
    struct sockaddr_in to = { AF_INET };
    WSAStartup(MAKEWORD(2, 2), &data);
    SOCKET out = socket(AF_INET, SOCK_STREAM, 0);
    to.sin_addr.s_addr = inet_addr(words[1]);
    to.sin_port = htons((u_short)atoi(words[2]));
    if (count != 3 || connect(out, (struct sockaddr *)&to, sizeof to) != 0) return 1;
    send(out, "hello\n", 6, 0);
    Sleep(2000);
    closesocket(out);
    return 0;
}
