/* Scripts: compiled by scripts.py, one byte code per line. */
#include "game.h"

#define SCRIPT_BUF ((u8 *)0xDA80)      /* 250 bytes, free in this game */

static u8 lot;                         /* what the word `draw` drew; where no reader looks */
#if SECRETS
static u8 pulled[4];                   /* how many of each order */
#endif

static void close(void) {
  if (wFontLoaded & 1) ui_close();
}

static void walk(u8 face, u8 n) {
  close();
  wJoyIgnore = 0xFF;
  for (; n; n--) {
    wSimulatedJoypadStatesIndex = n;
    frames(2);
    aim(face);
    if (!step(face)) break;
    while (wWalkCounter) {
      frames(2);
      advance();
    }
  }
  wSimulatedJoypadStatesIndex = 0;
  wPlayerMovingDirection = 0;
  wJoyIgnore = 0;
}

static void vanish(u8 n, u8 gone) {
  u8 *p = wMissableObjectFlags + (n >> 3);
  u8 bit = 1 << (n & 7);
  if (gone) *p |= bit;
  else *p &= ~bit;
  show_objects();
  update_sprites();
}

static u8 ask(u16 id) {
  u8 y, k;
  tell(id);
  k = two_choice(BOX_YES_NO);
  for (y = 7; y < 12; y++) {
    if (wMapPalOffset) fill(AT(14, y), T_BLACK, 6);
    else copy(AT(14, y), wTileMapBackup + (u16)(y * 20 + 14), 6);
  }
  return k == 0;
}

void run_script(u16 n) {
  const u8 *p;
  u16 v;
  u8 op, jump;
again:
  p = SCRIPT_BUF;
  res_load(RES_SCRIPTS + n, SCRIPT_BUF);
  for (;;) {
    op = *p++;
    v = p[0] | ((u16)p[1] << 8);
    jump = 0;                          /* whether to go where the byte at p says, after the operands */
    switch (op) {
      case OP_SAY:
        say(RES_TEXTS + v);
        p += 2;
        continue;
      case OP_SET:
        wEventFlags[v >> 3] |= 1 << (v & 7);
        p += 2;
        continue;
      case OP_CLEAR:
        wEventFlags[v >> 3] &= ~(1 << (v & 7));
        p += 2;
        continue;
      case OP_GOTO:
        p = SCRIPT_BUF + p[0];
        continue;
      case OP_CHAIN:
        n = v;
        goto again;
      case OP_BATTLE:
        if (!team_alive()) {
          say(TXT_NOFRIEND);
          close();
          return;
        }
        if (!fight(p[0])) return;
        p++;
        continue;
      case OP_BADGE:
        wObtainedBadges |= 1 << p[0];
        p++;
        continue;
      case OP_HEAL:
        heal_party();
        continue;
      case OP_REST:
        heal_party();
        rest_here();
        continue;
      case OP_FINISH:
        wNumHoFTeams++;
        continue;
      case OP_LIGHT:
        if (wMapPalOffset || in_school) lit = 1;
        if (wMapPalOffset) {
          wMapPalOffset = 0;
          if (wFontLoaded & 1) background();
          update_sprites();
          palette();
        }
        continue;
      case OP_TAKE:
        bag_take(p[0], p[1]);
        p += 2;
        continue;
      case OP_SHOP:
        shop(p);
        p += p[0] + 1;
        continue;
      case OP_MONEY:
        bcd_add(wPlayerMoney, p);
        p += 3;
        continue;
      case OP_WARP:
        close();
        wXCoord = p[1];
        wYCoord = p[2];
        load_map(p[0], 0xFF);
        p += 3;
        continue;
      case OP_SHOW:
      case OP_HIDE:
        vanish(*p++, op == OP_HIDE);
        continue;
      case OP_FACE:
        SPR1(p[0], 9) = p[1];
        update_sprites();
        p += 2;
        continue;
      case OP_WALK:
        walk(p[0], p[1]);
        p += 2;
        continue;
      case OP_DRAW:
        lot = wPlayTimeFrames & 3;     /* all four equally often, by the frame of the press before it */
        continue;
      case OP_BANNER:
        ui_open();
        for (v = 0; v < p[4]; v++) fill(AT(p[1], p[2] + v), p[0], p[3]);
        p += 5;
        continue;

      case OP_IFSET:
        jump = flag_get(v) != 0;
        p += 2;
        break;
      case OP_IFBADGE:
        jump = wObtainedBadges >> *p++ & 1;
        break;
      case OP_IFITEM:
        jump = bag_count(*p++) != 0;
        break;
      case OP_IFFRIEND:
        jump = wPartyCount != 0;
        break;
      case OP_IFDARK:
        jump = wMapPalOffset != 0;
        break;
      case OP_IFLOT:
        jump = lot == *p++;
        break;
      case OP_RANDOM:
        jump = rnd() < *p++;
        break;
      case OP_ASK:
        jump = !ask(RES_TEXTS + v);
        p += 2;
        break;
      case OP_PAY:
        jump = !bcd_sub(wPlayerMoney, p);
        p += 3;
        break;
      case OP_GIVE:
      case OP_FRIEND:
        jump = op == OP_GIVE ? !bag_add(p[0], p[1]) : !add_friend(p[0], p[1]);
        p += 2;
        if (jump && *p == NOTHING) {
          say(op == OP_GIVE ? TXT_BAGFULL : TXT_TEAMFULL);
          close();
          return;
        }
        break;
#if SECRETS
      case OP_IFSECRET:
        jump = secrets[p[0]] == p[1];
        p += 2;
        break;
      case OP_IFPULLED:
        jump = pulled[p[0]] == p[1];
        p += 2;
        break;
      case OP_PULL:
        jump = pulled[p[0]] >= 4 || secrets[p[0] * 4 + pulled[p[0]]] != p[1];
        if (!jump) pulled[p[0]]++;
        p += 2;
        break;
#endif
      default:
        close();
        return;
    }
    if (jump) p = SCRIPT_BUF + *p;
    else p++;
  }
}
