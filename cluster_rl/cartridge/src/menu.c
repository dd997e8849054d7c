/* The bag, the team, the shop and the START menu: places, order, bounds and key masks as in the real game. */
#include "game.h"

#define BAG_KINDS 20
#define MOST_OF_A_KIND 99
#define ITEM_KEY 1                     /* too important to throw away */
#define ITEM_AT_ONCE 2                 /* not asked about, used as soon as it is chosen */
#define NO_SCRIPT 0xFFFF

static u8 item[7];                     /* price x3, hit points, kind, script */

static u8 item_index(u8 id) {
  u8 i;
  for (i = 0; item_ids[i] != id; i++)
    ;
  return i;
}

static void item_load(u8 id) {
  id = item_index(id);
  res_part(RES_ITEMS, id * 7, 7, item);
  name_load(TXT_ITEM_NAMES + id, name_a);
}

/* ---- the bag */
static u8 bag_find(u8 id) {
  u8 i;
  for (i = 0; i < wNumBagItems; i++)
    if (wBagItems[i * 2] == id) return i;
  return NOTHING;
}

u8 bag_count(u8 id) {
  u8 i = bag_find(id);
  return i == NOTHING ? 0 : wBagItems[i * 2 + 1];
}

u8 bag_add(u8 id, u8 n) {
  u8 i = bag_find(id);
  if (i == NOTHING) {
    if (wNumBagItems == BAG_KINDS) return 0;
    i = wNumBagItems++;
    wBagItems[i * 2] = id;
    wBagItems[i * 2 + 1] = 0;
    wBagItems[i * 2 + 2] = 0xFF;
  }
  if (wBagItems[i * 2 + 1] == MOST_OF_A_KIND) return 0;
  n += wBagItems[i * 2 + 1];
  wBagItems[i * 2 + 1] = n < MOST_OF_A_KIND ? n : MOST_OF_A_KIND;
  return 1;
}

/* Takes what there is, at most n. */
void bag_take(u8 id, u8 n) {
  u8 i = bag_find(id), k;
  if (i == NOTHING) return;
  k = i * 2 + 1;
  if (wBagItems[k] > n) {
    wBagItems[k] -= n;
    return;
  }
  for (k = i * 2; k < BAG_KINDS * 2 - 1; k++) wBagItems[k] = wBagItems[k + 2];
  wNumBagItems--;
}

u8 use_on(u8 target) {
  u8 *m = wPartyMons + target * 44;
  u16 hp, max;
  item_load(wCurItem);
  if (!item[3] || target == NOTHING) {
    say(TXT_NOTNOW);
    return 0;
  }
  hp = be16(m + 1);
  max = be16(m + 0x22);
  copy(name_a, wPartyMonNicks + target * 11, 11);
  if (hp == max || hp == 0) {
    say(TXT_NOEFFECT);
    return 0;
  }
  hp += item[3];
  if (hp > max) hp = max;
  put_be16(m + 1, hp);
  bag_take(wCurItem, 1);
  say(TXT_HEALED);
  return 1;
}

/* ---- lists */
static void put_right(u8 *end, const u8 *text) {
  u8 n = 0;
  while (text[n] != 0x50) n++;
  put_text(end - n, text);
}

/* The bag, or what a shop has, as a scrolling list. A shop's keeps its place: its caller sets it first. */
u8 list_menu(u8 kind) {
  u8 i, k, n, shop = kind == LIST_PRICES;
  u8 *p;
  wTextBoxID = BOX_LIST;
  wListMenuID = kind;
  wListCount = shop ? wItemList[0] : wNumBagItems;
  wTopMenuItemX = 5;
  wTopMenuItemY = 4;
  wMaxMenuItem = wListCount < 2 ? wListCount : 2;
  wMenuWatchedKeys = PAD_A | PAD_B | PAD_SELECT;
  if (!shop) wCurrentMenuItem = wListScrollOffset = 0;
  wLastMenuItem = wCurrentMenuItem;
  for (;;) {
    box(4, 2, 16, 11);
    update_sprites();
    for (i = 0; i < 4; i++) {
      k = wListScrollOffset + i;
      if (k > wListCount) break;
      p = AT(6, 4 + i * 2);
      if (k == wListCount) {
        name_load(TXT_CANCEL, name_a);
        put_text(p, name_a);
        break;
      }
      item_load(shop ? wItemList[k + 1] : wBagItems[k * 2]);
      put_text(p, name_a);
      if (shop) {
        bcd_text(name_b, item);
        put_right(p + 33, name_b);
      } else {
        p[28] = 0xF1;
        put_number(p + 29, wBagItems[k * 2 + 1], 2);
      }
    }
    n = menu_input(2);
    if (n & PAD_UP) {
      if (wListScrollOffset) wListScrollOffset--;
    } else if (n & PAD_DOWN) {
      if (wListScrollOffset + 3 < wListCount + 1) wListScrollOffset++;
    } else if (n & PAD_B) {
      wMenuExitMethod = 2;
      return NOTHING;
    } else if (n & PAD_A) {
      k = wListScrollOffset + wCurrentMenuItem;
      wMenuExitMethod = 1;
      if (k >= wListCount) return NOTHING;
      return k;
    }
  }
}

/* All members with level and hit points, on the whole screen. */
u8 team_menu(void) {
  u8 i, k;
  u8 *p = AT(3, 0);
  u8 *m = wPartyMons;
  fill(wTileMap, T_SPACE, 360);
  update_sprites();
  for (i = 0; i < wPartyCount; i++) {
    put_text(p, wPartyMonNicks + i * 11);
    p[10] = 0x6E;
    put_number(p + 11, m[0x21], 1);
    put_number(p + 30, be16(m + 1), 3);
    p[33] = 0xF3;
    put_number(p + 34, be16(m + 0x22), 3);
    p += 40;
    m += 44;
  }
  wTextBoxID = 0;
  wTopMenuItemY = 1;
  wTopMenuItemX = 0;
  wMaxMenuItem = wPartyCount - 1;
  wMenuWatchedKeys = PAD_A | PAD_B;
  wCurrentMenuItem = wLastMenuItem = 0;
  do k = menu_input(2);
  while (!(k & (PAD_A | PAD_B)));
  return k & PAD_A ? wCurrentMenuItem : NOTHING;
}

/* ---- the shop: one piece a purchase */
void shop(const u8 *list) {
  u8 k, at, scroll;
  copy(wItemList, list, list[0] + 1);
  wItemList[list[0] + 1] = 0xFF;
  ui_open();
  at = scroll = 0;
  for (;;) {
    background();
    box(11, 0, 9, 3);
    bcd_text(name_b, wPlayerMoney);
    put_right(AT(19, 1), name_b);
    wCurrentMenuItem = at;
    wListScrollOffset = scroll;
    k = list_menu(LIST_PRICES);
    at = wCurrentMenuItem;
    scroll = wListScrollOffset;
    if (k == NOTHING) break;
    wCurItem = wItemList[k + 1];
    item_load(wCurItem);
    tell(TXT_BUY);
    if (two_choice(BOX_YES_NO)) continue;
    item_load(wCurItem);
    if (!bcd_sub(wPlayerMoney, item)) say(TXT_NOMONEY);
    else if (bag_add(wCurItem, 1)) say(TXT_BOUGHT);
    else {
      bcd_add(wPlayerMoney, item);
      say(TXT_BAGFULL);
    }
  }
  background();
  wTextBoxID = 0;
}

/* ---- START menu */
/* Uses an item, or throws a piece away; 1 where that closed the menu. */
static u8 bag_menu(void) {
  u8 k, kind;
  u16 script;
  for (;;) {
    background();
    k = list_menu(LIST_BAG);
    if (k == NOTHING) return 0;
    wWhichSlot = k;
    wCurItem = wBagItems[k * 2];
    item_load(wCurItem);
    kind = item[4];
    if (!(kind & ITEM_AT_ONCE)) {
      k = two_choice(BOX_USE_TOSS);
      if (k == 2) continue;
      item_load(wCurItem);
      if (k == 1) {
        say(kind & ITEM_KEY ? TXT_NOTOSS : TXT_TOSSED);
        if (!(kind & ITEM_KEY)) bag_take(wCurItem, 1);
        continue;
      }
    }
    script = item[5] | ((u16)item[6] << 8);
    if (script != NO_SCRIPT) {
      ui_close();
      run_script(script);
      return 1;
    }
    k = 0;
    if (!item[3] || !wPartyCount) k = NOTHING;
    else if (wPartyCount > 1) {
      k = team_menu();
      background();
      if (k == NOTHING) continue;
    }
    use_on(k);
    if (kind & ITEM_AT_ONCE) return 0;
  }
}

static void swap(u8 *a, u8 *b, u8 n) {
  u8 x;
  while (n--) {
    x = *a;
    *a++ = *b;
    *b++ = x;
  }
}

static void team(void) {
  u8 k;
  if (!wPartyCount) {
    say(TXT_NOTEAM);
    return;
  }
  for (;;) {
    k = team_menu();
    if (k == NOTHING) return;
    if (two_choice(BOX_TEAM) == 0) {   /* who leads is the first to fight */
      swap(wPartySpecies, wPartySpecies + k, 1);
      swap(wPartyMons, wPartyMons + k * 44, 44);
      swap(wPartyMonNicks, wPartyMonNicks + k * 11, 11);
      swap(wPartyMonOT, wPartyMonOT + k * 11, 11);
    }
  }
}

void start_menu(void) {
  u8 k, i;
  ui_open();
  wBattleAndStartSavedMenuItem = wBattleAndStartSavedMenuItem > 5 ? 0 : wBattleAndStartSavedMenuItem;
  for (;;) {
    background();
    box(10, 0, 10, 14);
    for (i = 0; i < 6; i++) {
      if (i == 2) put_text(AT(12, 6), wPlayerName);
      else {
        name_load(TXT_START_ITEMS + i, name_a);
        put_text(AT(12, 2 + i * 2), name_a);
      }
    }
    update_sprites();
    wTextBoxID = BOX_MESSAGE;
    wTopMenuItemY = 2;
    wTopMenuItemX = 11;
    wMaxMenuItem = 6;                  /* the real game's quirk: the count, not the last index */
    wMenuWatchedKeys = PAD_DOWN | PAD_UP | PAD_START | PAD_B | PAD_A;
    wCurrentMenuItem = wBattleAndStartSavedMenuItem;
    wLastMenuItem = wCurrentMenuItem;
    do {
      k = menu_input(2);
      if (k & PAD_UP) {
        if (wCurrentMenuItem == 0 && wLastMenuItem == 0) wCurrentMenuItem = 5;
      } else if (k & PAD_DOWN) {
        if (wCurrentMenuItem >= 6) wCurrentMenuItem = 0;
      }
    } while (!(k & (PAD_START | PAD_B | PAD_A)));
    wBattleAndStartSavedMenuItem = wCurrentMenuItem;
    if ((k & (PAD_START | PAD_B)) || wCurrentMenuItem == 5) break;
    switch (wCurrentMenuItem) {
      case 0:
        team();
        break;
      case 1:
        if (bag_menu()) return;
        break;
      case 2:
        say(TXT_CARD);
        break;
      case 3:
        say(TXT_SAVED);
        break;
      default:
        say(TXT_OPTIONS);
    }
  }
  ui_close();
}
