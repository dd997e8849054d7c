/* What a battle shows, and its menus. */
#include "game.h"
#include "battle.h"

static void hp_bar(u8 *at, const u8 *b) {
  u16 px = be16(b + HP) * 48 / be16(b + MAXHP);
  u8 i, n = px;
  if (!n && be16(b + HP)) n = 1;
  *at++ = 0x71;
  *at++ = 0x62;
  for (i = 0; i < 6; i++) {
    if (n >= 8) {
      *at++ = 0x6B;
      n -= 8;
    } else {
      *at++ = 0x63 + n;
      n = 0;
    }
  }
  *at = 0x6C;
}

void hud(void) {
  u8 i;
  fill(wTileMap, T_SPACE, 60);
  fill(AT(10, 7), T_SPACE, 10);
  fill(AT(10, 8), T_SPACE, 10);
  name_load(TXT_SPECIES_NAMES + E[0] - 1, name_a);
  put_text(AT(1, 0), name_a);
  *AT(4, 1) = 0x6E;
  put_number(AT(5, 1), E[LEVEL], 1);
  hp_bar(AT(2, 2), E);
  put_text(AT(10, 7), wPartyMonNicks + active * 11);
  *AT(14, 8) = 0x6E;
  put_number(AT(15, 8), P[LEVEL], 1);
  hp_bar(AT(10, 9), P);
  put_number(AT(11, 10), be16(P + HP), 3);
  *AT(14, 10) = 0xF3;
  put_number(AT(15, 10), be16(P + MAXHP), 3);
  for (i = 0; i < 16; i++) {
    *AT(14 + (i & 3), 2 + (i >> 2)) = i;
    *AT(3 + (i & 3), 7 + (i >> 2)) = 16 + i;
  }
}

/* 0 FIGHT, 1 BAG, 2 TEAM, 3 RUN; the cursor moves between two one-column menus,
   so wCurrentMenuItem is 0/1 and wTopMenuItemX tells the column (9 or 15). */
u8 main_menu(void) {
  u8 k, right = wBattleAndStartSavedMenuItem >= 2;
  box(0, 12, 20, 6);
  box(8, 12, 12, 6);
  wTextBoxID = BOX_BATTLE_MENU;
  name_load(TXT_BATTLE_MENU, name_a);
  put_text(AT(10, 14), name_a);
  name_load(TXT_BATTLE_MENU + 1, name_a);
  put_text(AT(10, 16), name_a);
  wCurrentMenuItem = wBattleAndStartSavedMenuItem & 1;
  for (;;) {
    *AT(9, 14) = *AT(9, 16) = *AT(15, 14) = *AT(15, 16) = T_SPACE;
    wTopMenuItemY = 14;
    wTopMenuItemX = right ? 15 : 9;
    wMaxMenuItem = 1;
    wMenuWatchedKeys = right ? PAD_LEFT | PAD_A : PAD_RIGHT | PAD_A;
    wLastMenuItem = wCurrentMenuItem;
    do k = menu_input(2);
    while (!(k & wMenuWatchedKeys));
    if (k & PAD_A) break;
    right ^= 1;
  }
  k = wCurrentMenuItem + (right ? 2 : 0);
  wBattleAndStartSavedMenuItem = k;
  return k;
}

/* returns the move number or 0 */
u8 move_menu(void) {
  u8 i, n, k;
  box(4, 12, 16, 6);
  for (n = 0; n < 4 && P[8 + n]; n++) {
    name_load(TXT_MOVE_NAMES + P[8 + n] - 1, name_a);
    put_text(AT(6, 13 + n), name_a);
  }
  wTopMenuItemY = 12;                  /* the real game counts this menu from 1 */
  wTopMenuItemX = 5;
  wMaxMenuItem = n + 1;
  wCurrentMenuItem = wPlayerMoveListIndex + 1;
  wLastMenuItem = wCurrentMenuItem;
  wMenuWatchedKeys = PAD_UP | PAD_DOWN | PAD_SELECT | PAD_A | PAD_B;
  for (;;) {
    k = menu_input(1);
    if (wCurrentMenuItem == 0) wCurrentMenuItem = n;
    else if (wCurrentMenuItem > n) wCurrentMenuItem = 1;
    if (k & PAD_B) return 0;
    if (k & PAD_A) {
      i = wCurrentMenuItem - 1;
      wPlayerMoveListIndex = i;
      if (P[25 + i]) {
        P[25 + i]--;
        return P[8 + i];
      }
      if (!(P[25] | P[26])) return P[8 + i];   /* no points left at all: a battle must end */
    }
  }
}

void pictures(void) {
  lcd_off();
  rBGP = 0xE4;
  res_load(RES_PICTURES + E[0] - 1, (u8 *)0x9000);
  res_load(RES_PICTURES + P[0] - 1, (u8 *)0x9100);
  lcd_on();
  vsync();
}
