#ifndef BATTLE_H
#define BATTLE_H
/* Battle records are 29 bytes, words big-endian. */
#define E wEnemyMon
#define P wBattleMon
#define HP 1
#define LEVEL 14
#define MAXHP 15
#define ATK 17
#define DEF 19
#define SPD 21

extern u8 active;                      /* who fights, of the party */

/* screen.c */
void hud(void);
void pictures(void);
u8 main_menu(void);      /* 0 FIGHT, 1 BAG, 2 PAL, 3 RUN */
u8 move_menu(void);      /* a move's number, or 0 */
#endif
